// A conversation: chat DIR [SEED [DEVICE]]. Ctrl-C ends an answer, and at the prompt the program.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"

	"nibble"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: chat DIR [SEED [DEVICE]]")
		os.Exit(2)
	}
	if err := chat(os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func chat(dir string, args []string) error {
	config := nibble.NewConfig()
	defer config.Close()
	if len(args) > 0 {
		seed, err := strconv.ParseInt(args[0], 10, 64)
		if err != nil {
			return err
		}
		config.SetSeed(seed)
	}
	if len(args) > 1 {
		config.SetDevice(args[1])
	}
	model, err := nibble.LoadModel(dir, config)
	if err != nil {
		return err
	}
	defer model.Close()
	session, err := model.NewSession(config)
	if err != nil {
		return err
	}
	defer session.Close()

	interrupts := make(chan os.Signal, 1)
	signal.Notify(interrupts, os.Interrupt)
	lines := readLines()
	var messages []nibble.Message
	for {
		fmt.Print("> ")
		var line string
		var more bool
		select {
		case line, more = <-lines:
		case <-interrupts:
		}
		if !more {
			fmt.Println()
			return nil
		}
		if strings.TrimSpace(line) == "" {
			continue
		}
		messages = append(messages, nibble.Message{Role: "user", Content: line})
		answer, err := answer(session, messages, interrupts)
		if err != nil {
			return err
		}
		messages = append(messages, nibble.Message{Role: "assistant", Content: answer})
	}
}

// answer streams the next turn, until it ends or Ctrl-C ends it.
func answer(session *nibble.Session, messages []nibble.Message, interrupts <-chan os.Signal) (string, error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		select {
		case <-interrupts:
			cancel()
		case <-ctx.Done():
		}
	}()
	var text strings.Builder
	err := session.StartChat(ctx, nibble.Chat{Messages: messages}, 200)
	for err == nil && session.Next() {
		text.WriteString(session.Text())
		fmt.Print(session.Text())
	}
	if err == nil {
		err = session.Err()
	}
	if errors.Is(err, nibble.ErrCancelled) {
		fmt.Println(" [stopped]")
		return text.String(), nil
	}
	if err == nil {
		fmt.Println()
	}
	return text.String(), err
}

func readLines() <-chan string {
	lines := make(chan string)
	go func() {
		defer close(lines)
		scanner := bufio.NewScanner(os.Stdin)
		scanner.Buffer(nil, 1<<24)
		for scanner.Scan() {
			lines <- scanner.Text()
		}
	}()
	return lines
}
