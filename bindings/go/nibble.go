// Package nibble runs language models quantized by AWQ, GPTQ and bitsandbytes as they lie on the Hugging Face Hub, on CPUs
// and NVIDIA GPUs, inside your process.
//
//	model, err := nibble.LoadModel("DIR", nil)
//	session, err := model.NewSession(nil)
//	err = session.StartText(ctx, "Once upon a time", 100)
//	for session.Next() {
//		fmt.Print(session.Text())
//	}
//	err = session.Err()
//
// A Model is shared by any number of goroutines, each with a Session of its own. Whatever has a Close holds memory that the
// garbage collector does not see: close it. A finalizer is the net below. A failure is an *Error, and errors.Is compares its
// code: errors.Is(err, nibble.ErrContextFull). Texts are UTF-8; text that is not fails with ErrArgument and the offset.
package nibble

import (
	"context"
	"encoding/json"
	"time"
	"unicode/utf8"
)

// This file is what is written by hand. It calls the generated functions only.

// stream is what the last call of Next found, and the watch over the context that the generation was started with.
type stream struct {
	ctx   context.Context
	stop  func()
	token Token
	text  string
	err   error
}

// StartText appends a prompt to the session, with what the tokenizer adds around a text, and starts an answer of at most
// maxTokens (< 0: up to the context). Next gives the answer. When ctx ends, so does the answer, with an error that is both
// ErrCancelled and the context's; ctx may be nil.
func (s *Session) StartText(ctx context.Context, prompt string, maxTokens int) error {
	return s.start(ctx, maxTokens, func() error { return s.AppendText(prompt, TokenizeAddSpecial) })
}

// StartChat makes the conversation the session's text and starts an answer to it, as StartText does. Give it the whole
// conversation each time: what the session has computed already is kept, so that a turn costs what it adds.
func (s *Session) StartChat(ctx context.Context, chat Chat, maxTokens int) error {
	request, err := chat.json()
	if err != nil {
		return err
	}
	return s.start(ctx, maxTokens, func() error { return s.AppendChatJSON(request) })
}

// Start starts an answer to what the session holds already, as StartText does.
func (s *Session) Start(ctx context.Context, maxTokens int) error {
	return s.start(ctx, maxTokens, func() error { return nil })
}

func (s *Session) start(ctx context.Context, maxTokens int, prompt func() error) error {
	s.endWatch()
	if ctx != nil && ctx.Err() != nil {
		return because(ctx, failed(ErrCancelled, "cancelled: %v", ctx.Err()))
	}
	s.stream = stream{ctx: ctx, stop: s.ref.cancelWith(ctx)}
	err := prompt()
	if err == nil {
		err = s.Begin(maxTokens)
	}
	if err != nil {
		s.endWatch()
	}
	return because(ctx, err)
}

// Next waits for the next token of the answer. It is false at the end and at a failure, which Err tells.
func (s *Session) Next() bool {
	token, text, ok, err := s.NextToken()
	s.stream.token, s.stream.text, s.stream.err = token, text, because(s.stream.ctx, err)
	if !ok || err != nil {
		s.endWatch()
		return false
	}
	return true
}

// Text is the text that the last token completed: whole characters only, and often none.
func (s *Session) Text() string { return s.stream.text }

// Token is the last token.
func (s *Session) Token() Token { return s.stream.token }

// Err tells why the answer ended before its end; nil where it did not.
func (s *Session) Err() error { return s.stream.err }

func (s *Session) endWatch() {
	if s.stream.stop != nil {
		s.stream.stop()
		s.stream.stop = nil
	}
}

// Await waits until the job has ended and tells its failure. When ctx ends, the job is cancelled.
func (j *Job) Await(ctx context.Context) error {
	stop := j.ref.cancelWith(ctx)
	defer stop()
	_, err := j.Wait(-1 * time.Millisecond)
	return because(ctx, err)
}

// Message is one of a conversation.
type Message struct {
	Role       string // "system", "user", "assistant", "tool"
	Content    string
	ToolCalls  []ToolCall // of an assistant
	ToolCallID string     // of a tool's answer
	Name       string     // of a tool's answer
}

// ToolCall is what an assistant asks of a tool.
type ToolCall struct {
	ID        string
	Name      string
	Arguments json.RawMessage // a JSON object
}

// Tool is a function that the model may ask for.
type Tool struct {
	Name        string
	Description string
	Parameters  json.RawMessage // a JSON schema
}

// Chat is a conversation as the chat template takes it.
type Chat struct {
	Messages             []Message
	Tools                []Tool
	ContinueFinalMessage bool                   // the answer goes on where the last message ends
	NoGenerationPrompt   bool                   // without the words that begin an answer
	SpellSpecial         bool                   // control tokens that stand in messages are ordinary text
	Template             string                 // which of the model's templates; "" for its usual one
	Variables            map[string]interface{} // whatever else the template reads: enable_thinking, documents, ...
}

// Render gives the prompt that the model was trained on for this conversation.
func (m *Model) Render(chat Chat) (string, error) {
	request, err := chat.json()
	if err != nil {
		return "", err
	}
	return m.RenderChatJSON(request)
}

type object map[string]interface{}

func (c Chat) json() (string, error) {
	request := object{}
	for name, value := range c.Variables {
		request[name] = value
	}
	messages := make([]object, 0, len(c.Messages))
	for index, message := range c.Messages {
		if !utf8.ValidString(message.Role) || !utf8.ValidString(message.Content) {
			return "", failed(ErrArgument, "the message %d is not UTF-8", index)
		}
		messages = append(messages, message.object())
	}
	request["messages"] = messages
	if len(c.Tools) > 0 {
		tools := make([]object, 0, len(c.Tools))
		for _, tool := range c.Tools {
			function := object{"name": tool.Name, "description": tool.Description}
			if len(tool.Parameters) > 0 {
				function["parameters"] = tool.Parameters
			}
			tools = append(tools, object{"type": "function", "function": function})
		}
		request["tools"] = tools
	}
	if c.ContinueFinalMessage {
		request["continue_final_message"] = true
	} else if c.NoGenerationPrompt {
		request["add_generation_prompt"] = false
	}
	if c.SpellSpecial {
		request["spell_special"] = true
	}
	if c.Template != "" {
		request["template"] = c.Template
	}
	text, err := json.Marshal(request)
	if err != nil {
		return "", failed(ErrArgument, "the conversation is no JSON: %v", err)
	}
	return string(text), nil
}

func (m Message) object() object {
	message := object{"role": m.Role, "content": m.Content}
	if m.ToolCallID != "" {
		message["tool_call_id"] = m.ToolCallID
	}
	if m.Name != "" {
		message["name"] = m.Name
	}
	if len(m.ToolCalls) > 0 {
		calls := make([]object, 0, len(m.ToolCalls))
		for _, call := range m.ToolCalls {
			arguments := call.Arguments
			if len(arguments) == 0 {
				arguments = json.RawMessage("{}")
			}
			calls = append(calls, object{"type": "function", "id": call.ID, "function": object{"name": call.Name, "arguments": arguments}})
		}
		message["tool_calls"] = calls
	}
	return message
}
