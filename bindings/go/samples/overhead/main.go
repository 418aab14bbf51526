// What a token costs beside computing it: overhead DIR [STEPS]. A batch computes the tokens of 32 sessions; taking them is
// timed. Prints "go N ns/token". tests/bench/binding_overhead.py puts it beside the other languages.
package main

import (
	"fmt"
	"os"
	"strconv"
	"time"

	"nibble"
)

const sessionCount = 32

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: overhead DIR [STEPS]")
		os.Exit(2)
	}
	steps := 200
	if len(os.Args) > 2 {
		steps, _ = strconv.Atoi(os.Args[2])
	}
	taken, tokens, err := measure(os.Args[1], steps)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Printf("go %d ns/token\n", taken.Nanoseconds()/int64(tokens))
}

func measure(dir string, steps int) (taken time.Duration, tokens int, err error) {
	const warmUp = 10
	model, err := nibble.LoadModel(dir, nil)
	if err != nil {
		return 0, 0, err
	}
	defer model.Close()
	batch, err := model.NewBatch(nil)
	if err != nil {
		return 0, 0, err
	}
	defer batch.Close()
	config := nibble.NewConfig().SetIgnoreEOS(true)
	defer config.Close()
	var sessions [sessionCount]*nibble.Session
	for i := range sessions {
		session, err := model.NewSession(config)
		if err != nil {
			return 0, 0, err
		}
		defer session.Close()
		if err := session.StartText(nil, "Once upon a time", steps+warmUp); err != nil { //nolint:staticcheck // nil is allowed
			return 0, 0, err
		}
		if err := batch.Add(session); err != nil {
			return 0, 0, err
		}
		sessions[i] = session
	}
	bytes := 0
	for step := 0; step < steps+warmUp; step++ {
		if _, err := batch.Step(); err != nil {
			return 0, 0, err
		}
		start, before := time.Now(), tokens
		for _, session := range sessions {
			if session.Next() {
				bytes += len(session.Text())
				tokens++
			}
		}
		if step < warmUp {
			tokens = before
		} else {
			taken += time.Since(start)
		}
	}
	if bytes == 0 || tokens != steps*sessionCount {
		return 0, 0, fmt.Errorf("%d tokens, %d bytes", tokens, bytes)
	}
	return taken, tokens, nil
}
