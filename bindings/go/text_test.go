package nibble

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"
)

func TestTextsOfEveryKind(t *testing.T) {
	model := testModel(t)
	for _, text := range []string{"", "h\u00e9llo \U0001f999!", "a\x00b\x00", "\x00", "\u65e5\u672c\u8a9e \U0001f469\u200d\U0001f467", strings.Repeat("x ", 1000)} {
		ids, err := model.Tokenize(text, TokenizeSpellSpecial)
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		if back, err := model.Detokenize(ids, 0); err != nil || back != text {
			t.Errorf("%q came back as %q, %v", text, back, err)
		}
	}
	for text, offset := range map[string]string{"\xff": "0", "ok\xc3": "2", "\xed\xa0\x80": "0"} {
		_, err := model.Tokenize(text, 0)
		var failure *Error
		if !errors.As(err, &failure) || failure.Code != ErrArgument || !strings.Contains(failure.Detail, `"offset"`) ||
			!strings.Contains(failure.Message, "offset "+offset) {
			t.Errorf("%q: %v", text, err)
		}
	}
	if _, err := LoadModel("a\x00b", nil); err == nil {
		t.Error("a directory with a NUL in its name")
	}
	config := NewConfig().SetChatTemplate("a\x00b")
	defer config.Close()
	if text, err := config.JSON(); err != nil || !strings.Contains(text, `a\u0000b`) {
		t.Errorf("%q, %v", text, err)
	}
}

func TestTextsOfTenMegabytes(t *testing.T) {
	model := testModel(t)
	text := strings.Repeat("The little dog l\u00e4uft. ", 10<<20/23)
	ids, err := model.Tokenize(text, 0)
	if err != nil {
		t.Fatal(err)
	}
	back, err := model.Detokenize(ids, 0)
	if err != nil || back != text {
		t.Errorf("%d bytes came back as %d, %v", len(text), len(back), err)
	}
	if _, err := LoadModel(text, nil); err == nil {
		t.Error("a directory of that name")
	}
	session := testSession(t)
	if err := session.AppendText(text, 0); !errors.Is(err, ErrContextFull) {
		t.Errorf("%v", err)
	}
	rendered, err := model.Render(Chat{Messages: []Message{{Role: "user", Content: text}}})
	if err != nil || !strings.Contains(rendered, text) {
		t.Errorf("%d bytes, %v", len(rendered), err)
	}
}

// The smallest buffer there is must grow and lose nothing.
func TestABufferOfOneByteLosesNothing(t *testing.T) {
	session := testSession(t)
	expected, err := session.Generate("Once upon a time", 40)
	if err != nil {
		t.Fatal(err)
	}
	before := scratches.New
	defer func() { scratches = sync.Pool{New: before} }()
	scratches = sync.Pool{New: func() interface{} { return &scratch{bytes: make([]byte, 1)} }}
	if err := session.Truncate(0); err != nil {
		t.Fatal(err)
	}
	if err := session.AppendText("Once upon a time", TokenizeAddSpecial); err != nil {
		t.Fatal(err)
	}
	if err := session.Begin(40); err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	for {
		scratches = sync.Pool{New: scratches.New}
		_, part, ok, err := session.NextToken()
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			break
		}
		if !utf8.ValidString(part) {
			t.Errorf("%q is no text", part)
		}
		text.WriteString(part)
	}
	if text.String() != expected {
		t.Errorf("%q, expected %q", text.String(), expected)
	}
}
