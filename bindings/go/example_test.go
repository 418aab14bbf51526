package nibble_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"strings"
	"time"

	"nibble"
)

const dir = "../../samples/models/story-6m-awq"

func Example() {
	model, err := nibble.LoadModel(dir, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer model.Close()
	config := nibble.NewConfig().SetTemperature(0).SetRepetitionPenalty(1)
	defer config.Close()
	session, err := model.NewSession(config)
	if err != nil {
		log.Fatal(err)
	}
	defer session.Close()

	if err := session.StartText(context.Background(), "Once upon a time, there was a young wizard named Rory.", 12); err != nil {
		log.Fatal(err)
	}
	for session.Next() {
		fmt.Print(session.Text())
	}
	fmt.Println()
	if err := session.Err(); err != nil {
		log.Fatal(err)
	}
	// Output:
	// He had a black cat. But his magic always went wrong
}

func ExampleSession_StartChat() {
	model, err := nibble.LoadModel(dir, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer model.Close()
	session, err := model.NewSession(nil)
	if err != nil {
		log.Fatal(err)
	}
	defer session.Close()

	chat := nibble.Chat{Messages: []nibble.Message{{Role: "user", Content: "Tell me a story about a bear."}}}
	if err := session.StartChat(context.Background(), chat, 50); err != nil {
		log.Fatal(err)
	}
	var answer strings.Builder
	for session.Next() {
		answer.WriteString(session.Text())
	}
	fmt.Println(answer.Len() > 0, session.Err())

	// The next turn is the same conversation, longer: only what is new is computed.
	chat.Messages = append(chat.Messages, nibble.Message{Role: "assistant", Content: answer.String()}, nibble.Message{Role: "user", Content: "Another one."})
	if err := session.StartChat(context.Background(), chat, 1); err != nil {
		log.Fatal(err)
	}
	reused, err := session.ReusedTokens()
	fmt.Println(reused > 0, err)
	// Output:
	// true <nil>
	// true <nil>
}

// A context ends an answer, and its prompt.
func ExampleSession_StartText_cancel() {
	model, err := nibble.LoadModel(dir, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer model.Close()
	session, err := model.NewSession(nibble.NewConfig().SetIgnoreEOS(true))
	if err != nil {
		log.Fatal(err)
	}
	defer session.Close()

	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	err = session.StartText(ctx, "Once upon a time", -1)
	for err == nil && session.Next() {
		time.Sleep(time.Millisecond)
	}
	if err == nil {
		err = session.Err()
	}
	fmt.Println(errors.Is(err, nibble.ErrCancelled), errors.Is(err, context.DeadlineExceeded))
	// Output: true true
}

func ExampleConfig() {
	config := nibble.NewConfig().SetKVDtype("int5").SetContext(512)
	defer config.Close()
	_, err := nibble.LoadModel(dir, config)
	var failure *nibble.Error
	fmt.Println(errors.As(err, &failure), failure.Code == nibble.ErrOptionValue, failure.Code.String())
	// Output: true true NBL_E_OPTION_VALUE
}

func ExampleStartLoadModel() {
	job, err := nibble.StartLoadModel(dir, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer job.Close()
	for {
		done, err := job.Wait(10 * time.Millisecond)
		if err != nil {
			log.Fatal(err)
		}
		if done {
			break
		}
		read, total, _ := job.Progress()
		log.Printf("%d of %d bytes", read, total)
	}
	model, err := job.TakeModel()
	if err != nil {
		log.Fatal(err)
	}
	defer model.Close()
	fmt.Println(model.Architecture())
	// Output: LlamaForCausalLM <nil>
}

func ExampleInspectModel() {
	text, err := nibble.InspectModel(dir)
	if err != nil {
		log.Fatal(err)
	}
	var facts struct {
		Loadable      bool
		Architectures []string
	}
	if err := json.Unmarshal([]byte(text), &facts); err != nil {
		log.Fatal(err)
	}
	fmt.Println(facts.Loadable, facts.Architectures)
	// Output: true [LlamaForCausalLM]
}
