// Text out of a checkpoint directory: generate DIR [PROMPT]
package main

import (
	"context"
	"fmt"
	"os"

	"nibble"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: generate DIR [PROMPT]")
		os.Exit(2)
	}
	prompt := "Once upon a time"
	if len(os.Args) > 2 {
		prompt = os.Args[2]
	}
	if err := generate(os.Args[1], prompt); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func generate(dir, prompt string) error {
	model, err := nibble.LoadModel(dir, nil)
	if err != nil {
		return err
	}
	defer model.Close()
	session, err := model.NewSession(nil)
	if err != nil {
		return err
	}
	defer session.Close()
	if err := session.StartText(context.Background(), prompt, 200); err != nil {
		return err
	}
	fmt.Print(prompt)
	for session.Next() {
		fmt.Print(session.Text())
	}
	fmt.Println()
	return session.Err()
}
