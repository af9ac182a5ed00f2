package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"

	"github.com/spf13/cobra"
)

func sqlCommand() *cobra.Command {
	var t target
	var statements []string
	cmd := &cobra.Command{
		Use:   "sql",
		Short: "Run SQL statements, or open psql on the first node that answers",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			conn, err := t.connect(cmd.Context())
			if err != nil {
				return err
			}
			defer conn.Close(cmd.Context())
			if len(statements) == 0 && isTerminal(os.Stdin) {
				psql, err := exec.LookPath("psql")
				if err != nil {
					return usageError{fmt.Errorf("psql is not installed: give statements with -c, or on standard input")}
				}
				return syscall.Exec(psql, []string{"psql", conn.Config().ConnString()}, os.Environ())
			}
			if len(statements) == 0 {
				in, err := io.ReadAll(io.LimitReader(os.Stdin, 16<<20))
				if err != nil {
					return err
				}
				statements = []string{string(in)}
			}
			for _, s := range statements {
				results, err := query(cmd.Context(), conn, s)
				for _, r := range results {
					fmt.Fprint(cmd.OutOrStdout(), r.text())
				}
				if err != nil {
					return err
				}
			}
			return nil
		},
	}
	t.flags(cmd)
	cmd.Flags().StringArrayVarP(&statements, "command", "c", nil, "statement to run (repeatable)")
	return cmd
}

func isTerminal(f *os.File) bool {
	st, err := f.Stat()
	return err == nil && st.Mode()&os.ModeCharDevice != 0
}

// output prints tables for people, or JSON for scripts.
func output(cmd *cobra.Command, format string, tables []table) error {
	if format == "text" {
		for _, t := range tables {
			fmt.Fprint(cmd.OutOrStdout(), t.text())
		}
		return nil
	}
	rows := []map[string]string{}
	for _, t := range tables {
		for _, r := range t.rows {
			m := map[string]string{}
			for i, c := range t.columns {
				m[c] = r[i]
			}
			rows = append(rows, m)
		}
	}
	enc := json.NewEncoder(cmd.OutOrStdout())
	enc.SetIndent("", "  ")
	return enc.Encode(rows)
}

// formatFlag adds -o.
func formatFlag(cmd *cobra.Command, format *string) {
	cmd.PersistentFlags().StringVarP(format, "output", "o", "text", "text or json")
	prev := cmd.PersistentPreRunE
	cmd.PersistentPreRunE = func(c *cobra.Command, args []string) error {
		if *format != "text" && *format != "json" {
			return usageError{fmt.Errorf("-o %q: use text or json", *format)}
		}
		if prev != nil {
			return prev(c, args)
		}
		return nil
	}
}
