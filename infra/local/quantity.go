package local

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// quantitySuffixes are those of Kubernetes' quantities that a volume's size is given in.
var quantitySuffixes = []struct {
	suffix string
	factor float64
}{
	{"Ki", 1 << 10}, {"Mi", 1 << 20}, {"Gi", 1 << 30}, {"Ti", 1 << 40}, {"Pi", 1 << 50},
	{"k", 1e3}, {"M", 1e6}, {"G", 1e9}, {"T", 1e12}, {"P", 1e15}, {"m", 1e-3},
}

// parseQuantity reads a number of bytes as Kubernetes writes it: 10Gi, 1500M, 1e9, 1024. Parts of a
// byte count as a whole one.
func parseQuantity(s string) (int64, error) {
	number, factor := s, 1.0
	for _, q := range quantitySuffixes {
		if n, ok := strings.CutSuffix(s, q.suffix); ok {
			number, factor = n, q.factor
			break
		}
	}
	f, err := strconv.ParseFloat(number, 64)
	bytes := math.Ceil(f * factor)
	if err != nil || math.IsNaN(f) || f < 0 || bytes > 1<<60 {
		return 0, fmt.Errorf("size %q: want 0 to 1024Pi, such as 10Gi", s)
	}
	return int64(bytes), nil
}
