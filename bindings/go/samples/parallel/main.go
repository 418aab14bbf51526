// Many sessions of one model at the same time, each with its own seed: parallel DIR [SESSIONS [PROMPT]]
package main

import (
	"fmt"
	"os"
	"strconv"
	"sync"

	"nibble"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: parallel DIR [SESSIONS [PROMPT]]")
		os.Exit(2)
	}
	count, prompt := 8, "Once upon a time"
	if len(os.Args) > 2 {
		var err error
		if count, err = strconv.Atoi(os.Args[2]); err != nil || count < 1 {
			fmt.Fprintln(os.Stderr, "SESSIONS is a number above 0")
			os.Exit(2)
		}
	}
	if len(os.Args) > 3 {
		prompt = os.Args[3]
	}
	if err := parallel(os.Args[1], count, prompt); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func parallel(dir string, count int, prompt string) error {
	// Many sessions share the processor: the workers of one do not spin while those of another compute.
	config := nibble.NewConfig().SetSpin(false)
	defer config.Close()
	model, err := nibble.LoadModel(dir, config)
	if err != nil {
		return err
	}
	defer model.Close()
	texts, failures := make([]string, count), make([]error, count)
	var group sync.WaitGroup
	for seed := range texts {
		group.Add(1)
		go func(seed int) {
			defer group.Done()
			texts[seed], failures[seed] = story(model, seed, prompt)
		}(seed)
	}
	group.Wait()
	for seed, text := range texts {
		if failures[seed] != nil {
			return failures[seed]
		}
		fmt.Printf("== seed %d\n%s%s\n", seed, prompt, text)
	}
	return nil
}

func story(model *nibble.Model, seed int, prompt string) (string, error) {
	session, err := model.NewSession(nil)
	if err != nil {
		return "", err
	}
	defer session.Close()
	if err := session.SetSeed(int64(seed)); err != nil {
		return "", err
	}
	return session.Generate(prompt, 100)
}
