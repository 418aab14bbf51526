"""bindings/go: its files, and the test that calls every function and compares every number with the running library."""
from generator import language
from generator.go_methods import Body, functions
from generator.go_names import BANNER, Go, aligned, pascal
from generator.go_native import NATIVE
from generator.go_options import codes, header_checks, option_methods


def contract_test(go):
    """Every function with nil handles, every constant against the running library."""
    api = go.api
    out = BANNER + """package nibble

import (
	"encoding/json"
	"errors"
	"testing"
)

// The library gets NULL for each nil and refuses it: that proves that the function is there and takes what it should.
func TestEveryFunctionWithNilHandles(t *testing.T) {
	refused := func(name string, err error) {
		t.Helper()
		var failure *Error
		if !errors.As(err, &failure) || failure.Code != ErrArgument || failure.Message == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
"""
    zeros = {"string": '""', "bool": "false"}
    for fn in api.fns:
        if not go.function(fn) or fn.group == "error" or fn.name == "status_name":
            continue
        receiver = go.receiver(fn)
        head = "(*%s)(nil)." % go.handle(receiver) if receiver else ""
        if fn.release:
            out += "\tif err := %sClose(); err != nil {\n\t\tt.Error(err)\n\t}\n" % head
            continue
        if fn.name == "config_create":
            out += "\tif config := NewConfig(); config.Err() != nil || config.Close() != nil {\n\t\tt.Error(config.Err())\n\t}\n"
            continue
        if not fn.fallible:
            args = ["0" for arg in fn.args if arg is not fn.self_arg]
            out += "\t%s%s(%s)\n" % (head, go.method(fn), ", ".join(args))
            continue
        body = Body(go, fn)
        args = []
        for param in body.params:
            kind = param.split(" ", 1)[1]
            args.append(zeros.get(kind, "nil" if kind[0] in "*[" else "0"))
        results = ", ".join(["_"] * len(body.results) + ["err"])
        call = "%s%s(%s)" % (head, go.method(fn), ", ".join(args))
        # Without a handle it need not be refused: what matters is that the call comes back.
        check = "refused(\"%s\", err)" % go.function(fn) if any(a.kind == "handle" and not a.nullable for a in fn.args) else "if err != nil {\n\t\t\trefusedOrNot(err)\n\t\t}"
        if "refusedOrNot" in check:
            out += "\tif %s := %s; err != nil && err.Error() == \"\" {\n\t\tt.Error(\"%s: an error without words\")\n\t}\n" % (results, call, go.function(fn))
        else:
            out += "\t{\n\t\t%s := %s\n\t\t%s\n\t}\n" % (results, call, check)
    out += "}\n\nfunc TestEveryCodeHasTheLibrarysName(t *testing.T) {\n\tfor code, name := range map[Code]string{\n"
    out += aligned([[go.status(row["name"]) + ":", '"NBL_%s",' % row["name"]] for row in api.statuses], "\t\t")
    out += "\t} {\n\t\tif code.String() != name {\n\t\t\tt.Errorf(\"%d is %s, not %s\", code, code.String(), name)\n\t\t}\n\t}\n}\n\n"
    out += "func TestEveryOptionIsTheLibrarys(t *testing.T) {\n\toptions := []struct {\n\t\toption     Option\n\t\tname, kind string\n\t}{\n"
    for option in language.options(api):
        out += "\t\t{Opt%s, \"%s\", \"%s\"},\n" % (pascal(option.name), option.name.lower(), option.stored)
    out += """	}
	if OptionCount() != len(options) {
		t.Errorf("the library has %d options, not %d", OptionCount(), len(options))
	}
	for index, row := range options {
		if OptionAt(index) != row.option {
			t.Errorf("option %d is %d, not %d", index, OptionAt(index), row.option)
		}
		text, err := DescribeOption(row.option)
		if err != nil {
			t.Error(err)
		}
		var described struct{ Name, Type string }
		if err := json.Unmarshal([]byte(text), &described); err != nil {
			t.Error(err)
		}
		if described.Name != row.name || described.Type != row.kind {
			t.Errorf("%d is %s, expected the %s %s", row.option, text, row.kind, row.name)
		}
	}
}

@OPTIONS@func TestEveryPropertyIsTheLibrarys(t *testing.T) {
	model := testModel(t)
	session, err := model.NewSession(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
"""
    out = out.replace("@OPTIONS@", option_test(go))
    for row in api.props:
        owner, *text = row["of"].split()
        if owner == "device":
            continue
        call = "%s.%s(%s)" % (owner, "TextOf" if text else "Int64", go.prop(row["name"]))
        out += "\tif _, err := %s; err != nil {\n\t\tt.Errorf(\"%s: %%v\", err)\n\t}\n" % (call, go.prop(row["name"]))
    out += "\tfor device := 0; device < DeviceCount(); device++ {\n\t\tfor prop := PropDeviceTotalBytes; prop <= PropDeviceSMMinor; prop++ {\n"
    out += "\t\t\tif _, err := DeviceInt64(device, prop); err != nil && !errors.Is(err, ErrUnsupported) {\n\t\t\t\tt.Error(err)\n\t\t\t}\n\t\t}\n\t}\n}\n"
    return out


def option_test(go):
    """Each option's method sets that option; each that a session has is taken by a session."""
    config = session = ""
    for option in language.options(go.api):
        name = go.option(option).removeprefix("Config.")
        value = {"bool": "true", "f64": str(option.default or 0.5), "str": '"auto"'}.get(option.kind, str(option.low or 1))
        if option.kind == "str":
            value = '"%s"' % (option.values[0] if option.values else "cpu")
        elif option.kind == "list":
            value = "1" if option.integers else '"word"'
        config += "\t\t{\"%s\", NewConfig().%s(%s)},\n" % (option.name.lower(), name, value)
        if option.generation:
            session += "\t\t{\"%s\", session.%s(%s)},\n" % (option.name.lower(), name, value)
    return """func TestEveryOptionHasItsMethod(t *testing.T) {
	for _, row := range []struct {
		name   string
		config *Config
	}{
%s	} {
		text, err := row.config.JSON()
		var options map[string]interface{}
		if err != nil || row.config.Err() != nil || json.Unmarshal([]byte(text), &options) != nil || len(options) != 1 || options[row.name] == nil {
			t.Errorf("%%s: %%s, %%v, %%v", row.name, text, err, row.config.Err())
		}
		row.config.Close()
	}
	session := testSession(t)
	for _, row := range []struct {
		name string
		err  error
	}{
%s	} {
		if row.err != nil {
			t.Errorf("%%s: %%v", row.name, row.err)
		}
	}
}

""" % (config, session)


def outputs(api):
    go = Go(api)
    files = {"native.gen.go": BANNER + NATIVE, "functions.gen.go": functions(go), "options.gen.go": option_methods(go), "codes.gen.go": codes(go),
             "header.gen.go": header_checks(go), "contract.gen_test.go": contract_test(go)}
    return {"bindings/go/" + name: text for name, text in files.items()}


