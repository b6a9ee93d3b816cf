// What a person reads when a history fails.
package main

import (
	"fmt"
	"io"
	"sort"
	"strings"

	"github.com/anishathalye/porcupine"
)

const (
	shownBefore     = 8  // operations before the point of no return
	shownViolations = 20 // of each kind of check
)

func describe(o *Operation) string {
	var text strings.Builder
	text.WriteString(o.Op)
	if o.Serializable {
		text.WriteString(" serializable")
	}
	if o.Key != "" {
		fmt.Fprintf(&text, " %s", o.Key)
	}
	for _, compare := range o.Compares {
		fmt.Fprintf(&text, " if %s@%d", compare.Key, compare.Expected)
	}
	for _, write := range o.Writes {
		if write.Value == nil {
			fmt.Fprintf(&text, " -%s", write.Key)
		} else {
			fmt.Fprintf(&text, " %s:=%s", write.Key, *write.Value)
		}
	}
	text.WriteString(" -> ")
	switch {
	case o.resolved:
		fmt.Fprintf(&text, "no answer, seen at revision %d", o.Result.Revision)
	case o.Outcome != outcomeOK:
		text.WriteString(o.Outcome)
	default:
		fmt.Fprintf(&text, "revision %d", o.Result.Revision)
		if o.Op == opTxn {
			fmt.Fprintf(&text, " succeeded=%t", o.Result.Succeeded)
		}
		if o.Op == opDelete || o.Op == opBatch {
			fmt.Fprintf(&text, " deleted=%d", o.Result.Deleted)
		}
		if o.Op == opTxn || !o.writes() {
			text.WriteString(" saw {")
			for i, seen := range o.Result.Found {
				if i > 0 {
					text.WriteString(" ")
				}
				fmt.Fprintf(&text, "%s=%s@%d", seen.Key, seen.Value, seen.Revision)
			}
			text.WriteString("}")
		}
	}
	return text.String()
}

func milliseconds(ns int64) string {
	if ns == never {
		return "     never"
	}
	return fmt.Sprintf("%10.3f", float64(ns)/1e6)
}

func printOperation(out io.Writer, mark string, o *Operation) {
	fmt.Fprintf(out, "  %s [%s .. %s ms] client %2d member %d line %5d  %s\n",
		mark, milliseconds(o.Call), milliseconds(o.Return), o.Client, o.Member, o.line, describe(o))
}

func printViolations(out io.Writer, violations []violation) {
	for i, found := range violations {
		if i == shownViolations {
			fmt.Fprintf(out, "... and %d more\n", len(violations)-i)
			return
		}
		fmt.Fprintln(out, found.text)
		for _, operation := range found.shown {
			printOperation(out, " ", operation)
		}
	}
}

// printCounterexample shows the longest order there is, and what cannot follow it.
func printCounterexample(out io.Writer, group string, all []*Operation, info porcupine.LinearizationInfo) {
	var longest []porcupine.Operation
	for _, partials := range info.PartialLinearizationsOperations() {
		for _, partial := range partials {
			if len(partial) > len(longest) {
				longest = partial
			}
		}
	}
	reached := state{}
	placed := map[*Operation]bool{}
	for _, operation := range longest {
		_, reached = step(reached, operation.Input.(*Operation))
		placed[operation.Input.(*Operation)] = true
	}
	fmt.Fprintf(out, "group %s is not linearizable. The longest order ends\n", group)
	for _, operation := range longest[max(0, len(longest)-shownBefore):] {
		printOperation(out, "=", operation.Input.(*Operation))
	}
	fmt.Fprintf(out, "  which comes to %s; none of these can follow:\n", reached)
	for _, operation := range next(all, placed) {
		printOperation(out, "?", operation)
	}
}

// next gives what was called before everything unplaced had returned: one of it had to be next.
func next(all []*Operation, placed map[*Operation]bool) []*Operation {
	var left []*Operation
	for _, operation := range all {
		if !placed[operation] {
			left = append(left, operation)
		}
	}
	until := int64(never)
	for _, operation := range left {
		until = min(until, operation.Return)
	}
	var first []*Operation
	for _, operation := range left {
		if operation.Call <= until {
			first = append(first, operation)
		}
	}
	sort.Slice(first, func(i, j int) bool { return first[i].Call < first[j].Call })
	return first
}
