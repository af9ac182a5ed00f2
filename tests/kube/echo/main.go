// Command echo is the pod of the local platform's test: a server that says where it runs and counts
// its starts on its volume, and a client ("echo get URL...").
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

const startsFile = "/data/starts"

func main() {
	if len(os.Args) > 2 && os.Args[1] == "get" {
		os.Exit(get(os.Args[2:]))
	}
	starts, err := count()
	if err != nil {
		log.Fatal(err)
	}
	http.HandleFunc("GET /", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "pod=%s node=%s starts=%d\n", os.Getenv("POD"), os.Getenv("NODE"), starts)
	})
	http.HandleFunc("GET /write", func(w http.ResponseWriter, _ *http.Request) {
		// A new file each time: one that is there would make room for itself.
		path := fmt.Sprintf("/data/block-%d", time.Now().UnixNano())
		defer os.Remove(path)
		if err := write(path, make([]byte, 1<<20)); err != nil {
			http.Error(w, err.Error(), http.StatusInsufficientStorage)
			return
		}
		fmt.Fprintln(w, "written")
	})
	log.Fatal(http.ListenAndServe(":8080", nil))
}

func count() (int, error) {
	starts := 0
	b, err := os.ReadFile(startsFile)
	if err == nil {
		if starts, err = strconv.Atoi(strings.TrimSpace(string(b))); err != nil {
			return 0, err
		}
	}
	starts++
	return starts, write(startsFile, []byte(strconv.Itoa(starts)))
}

// write writes a file down to its disk.
func write(path string, data []byte) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(data); err != nil {
		return err
	}
	return f.Sync()
}

// get prints what each URL answers, or ERR, and returns how many did not.
func get(urls []string) int {
	bad := 0
	for _, u := range urls {
		body, err := fetch(u)
		if err != nil {
			bad++
			body = "ERR " + err.Error()
		}
		fmt.Println(strings.TrimSpace(body))
	}
	return bad
}

func fetch(u string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, b)
	}
	return string(b), err
}
