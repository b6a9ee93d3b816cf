// checker decides whether a history recorded from a store is linearizable.
//
//	checker [-timeout 60s] [-visualize FILE.html] HISTORY.jsonl
//
// Exit codes: 0 it is; 1 it is not, and stdout shows why; 2 the history cannot be read; 3 not decided
// in time. The last line of stdout is a summary as JSON.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"sort"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"
)

const (
	exitLinearizable = 0
	exitViolation    = 1
	exitUsage        = 2
	exitUndecided    = 3
)

// summary says what was checked: a history in which little happened proves little.
type summary struct {
	Operations int     `json:"operations"`
	OK         int     `json:"ok"`
	Failed     int     `json:"failed"`
	Unknown    int     `json:"unknown"`
	Resolved   int     `json:"resolved"` // of the unknown
	Ordered    int     `json:"ordered"`
	Groups     int     `json:"groups"`
	Violations int     `json:"violations"`
	Undecided  int     `json:"undecided"`
	Seconds    float64 `json:"seconds"`
}

func main() {
	timeout := flag.Duration("timeout", time.Minute, "for each group of keys")
	visualize := flag.String("visualize", "", "write the first group that is not linearizable as HTML")
	flag.Parse()
	if flag.NArg() != 1 {
		flag.Usage()
		os.Exit(exitUsage)
	}
	file, err := os.Open(flag.Arg(0))
	if err == nil {
		defer file.Close()
		var operations []*Operation
		if operations, err = readHistory(file); err == nil {
			os.Exit(check(os.Stdout, operations, *timeout, *visualize))
		}
	}
	fmt.Fprintln(os.Stderr, "checker:", err)
	os.Exit(exitUsage)
}

// check prints what it finds and returns the exit code.
func check(out io.Writer, operations []*Operation, timeout time.Duration, visualize string) int {
	began := time.Now()
	ordered, violations := decide(operations)
	violations = append(violations, checkRevisions(operations)...)
	printViolations(out, violations)
	total := count(operations)
	groups := partition(ordered)
	total.Ordered, total.Groups, total.Violations = len(ordered), len(groups), len(violations)
	for i, result := range checkGroups(groups, timeout) {
		switch result {
		case porcupine.Illegal:
			total.Violations++
			explain(out, groups[i], timeout, visualize)
			visualize = ""
		case porcupine.Unknown:
			total.Undecided++
			fmt.Fprintf(out, "group %s was not decided in %s\n", groups[i][0].Group, timeout)
		}
	}
	total.Seconds = time.Since(began).Seconds()
	line, _ := json.Marshal(total)
	fmt.Fprintln(out, string(line))
	switch {
	case total.Violations > 0:
		return exitViolation
	case total.Undecided > 0:
		return exitUndecided
	}
	return exitLinearizable
}

func count(operations []*Operation) summary {
	total := summary{Operations: len(operations)}
	for _, operation := range operations {
		switch operation.Outcome {
		case outcomeOK:
			total.OK++
		case outcomeFailed:
			total.Failed++
		default:
			total.Unknown++
		}
		if operation.resolved {
			total.Resolved++
		}
	}
	return total
}

// partition gives the operations of each group, by the group's name.
func partition(operations []*Operation) [][]*Operation {
	byName := map[string][]*Operation{}
	for _, operation := range operations {
		byName[operation.Group] = append(byName[operation.Group], operation)
	}
	var groups [][]*Operation
	for _, group := range byName {
		groups = append(groups, group)
	}
	sort.Slice(groups, func(i, j int) bool { return groups[i][0].Group < groups[j][0].Group })
	return groups
}

func checkGroups(groups [][]*Operation, timeout time.Duration) []porcupine.CheckResult {
	results := make([]porcupine.CheckResult, len(groups))
	var waiting sync.WaitGroup
	free := make(chan struct{}, runtime.NumCPU())
	for i, group := range groups {
		waiting.Add(1)
		free <- struct{}{}
		go func() {
			defer waiting.Done()
			results[i] = checkGroup(group, timeout)
			<-free
		}()
	}
	waiting.Wait()
	return results
}

// checkGroup first leaves out what may never have been done: an order without it is one with it too,
// at the end, and is found much sooner.
func checkGroup(group []*Operation, timeout time.Duration) porcupine.CheckResult {
	var sure []*Operation
	for _, operation := range group {
		if operation.known() {
			sure = append(sure, operation)
		}
	}
	if len(sure) < len(group) {
		if porcupine.CheckOperationsTimeout(model(), history(sure), timeout) == porcupine.Ok {
			return porcupine.Ok
		}
	}
	return porcupine.CheckOperationsTimeout(model(), history(group), timeout)
}

func history(group []*Operation) []porcupine.Operation {
	var converted []porcupine.Operation
	spans := tighten(group)
	for i, o := range group {
		if !implied(group, spans, i) {
			converted = append(converted, porcupine.Operation{
				ClientId: o.Client, Input: o, Output: o, Call: spans[i].from, Return: spans[i].to,
			})
		}
	}
	return converted
}

// explain checks a group again, keeping what shows why it fails.
func explain(out io.Writer, group []*Operation, timeout time.Duration, visualize string) {
	_, info := porcupine.CheckOperationsVerbose(model(), history(group), timeout)
	printCounterexample(out, group[0].Group, group, info)
	if visualize == "" {
		return
	}
	if err := porcupine.VisualizePath(model(), info, visualize); err != nil {
		fmt.Fprintln(out, "cannot write the picture:", err)
		return
	}
	fmt.Fprintln(out, "drawn in", visualize)
}
