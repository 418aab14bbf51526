#include "text/jinja/text_of.h"

#include <cstdio>

#include "base/utf8.h"
#include "text/jinja/characters.h"
#include "text/jinja/interpreter.h"
#include "text/jinja/number.h"

namespace nbl::jinja {
namespace {

void append_escape_of(std::string& out, uint32_t c) {
  char buffer[12];
  const char* form = c < 0x100 ? "\\x%02x" : c < 0x10000 ? "\\u%04x" : "\\U%08x";
  std::snprintf(buffer, sizeof(buffer), form, static_cast<unsigned>(c));
  out += buffer;
}

void append_quoted(std::string& out, uint32_t c, char quote) {
  switch (c) {
    case '\\': out += "\\\\"; return;
    case '\n': out += "\\n"; return;
    case '\r': out += "\\r"; return;
    case '\t': out += "\\t"; return;
    default: break;
  }
  if (c == static_cast<unsigned char>(quote)) {
    out += '\\';
    out += quote;
  } else if (is_printable(c)) {
    utf8_append(out, c);
  } else {
    append_escape_of(out, c);
  }
}

void append_repr_of_bytes(std::string& out, std::string_view bytes) {
  const char quote = bytes.find('\'') != std::string_view::npos && bytes.find('"') == std::string_view::npos ? '"' : '\'';
  out += 'b';
  out += quote;
  for (const char c : bytes) {
    const unsigned char byte = static_cast<unsigned char>(c);
    if (byte < 0x7F) append_quoted(out, byte, quote);
    else append_escape_of(out, byte);
  }
  out += quote;
}

Status append_items(Runtime& rt, std::string& out, const std::vector<Value>& items) {
  for (size_t i = 0; i < items.size(); ++i) {
    if (i) out += ", ";
    NBL_RETURN_IF_ERROR(append_repr(rt, out, items[i]));
  }
  return Status();
}

Status append_pairs(Runtime& rt, std::string& out, const Dict& dict) {
  out += '{';
  for (size_t i = 0; i < dict.entries.size(); ++i) {
    if (i) out += ", ";
    NBL_RETURN_IF_ERROR(append_repr(rt, out, dict.entries[i].first));
    out += ": ";
    NBL_RETURN_IF_ERROR(append_repr(rt, out, dict.entries[i].second));
  }
  out += '}';
  return Status();
}

Status append_view(Runtime& rt, std::string& out, const View& view) {
  out += type_name(Value::object(Kind::kView, &view));
  out += "([";
  const auto& entries = view.dict->entries;
  for (size_t i = 0; i < entries.size(); ++i) {
    if (i) out += ", ";
    if (view.part == View::kItems) out += '(';
    if (view.part != View::kValues) NBL_RETURN_IF_ERROR(append_repr(rt, out, entries[i].first));
    if (view.part == View::kItems) out += ", ";
    if (view.part != View::kKeys) NBL_RETURN_IF_ERROR(append_repr(rt, out, entries[i].second));
    if (view.part == View::kItems) out += ')';
  }
  out += "])";
  return Status();
}

void append_range(std::string& out, const Range& range) {
  out += "range(" + int_text(range.start) + ", " + int_text(range.stop);
  if (range.step != 1) out += ", " + int_text(range.step);
  out += ')';
}

Status append_tuple(Runtime& rt, std::string& out, const List& tuple) {
  out += '(';
  NBL_RETURN_IF_ERROR(append_items(rt, out, tuple.items));
  out += tuple.items.size() == 1 ? ",)" : ")";
  return Status();
}

// What Python prints as <... at 0x7f..>: the kind, without an address.
void append_opaque(std::string& out, const Value& value) {
  if (value.is(Kind::kLoop)) {
    out += "<LoopContext " + std::to_string(value.loop().index0 + 1) + "/" + std::to_string(value.loop().items.size()) + ">";
  } else if (value.is(Kind::kMacro)) {
    out += "<Macro '" + std::string(value.macro().name) + "'>";
  } else {
    out += std::string("<") + type_name(value) + " object>";
  }
}

Status append_nested(Runtime& rt, std::string& out, const Value& value) {
  Deeper deeper(rt);
  NBL_RETURN_IF_ERROR(deeper.check());
  switch (value.kind()) {
    case Kind::kList:
      out += '[';
      NBL_RETURN_IF_ERROR(append_items(rt, out, value.list().items));
      out += ']';
      return Status();
    case Kind::kTuple: return append_tuple(rt, out, value.list());
    case Kind::kDict: return append_pairs(rt, out, value.dict());
    case Kind::kView: return append_view(rt, out, value.view());
    default: break;
  }
  out += "<Namespace ";
  NBL_RETURN_IF_ERROR(append_pairs(rt, out, value.name_space().attributes));
  out += '>';
  return Status();
}

}  // namespace

void append_repr_of_text(std::string& out, std::string_view text) {
  const char quote = text.find('\'') != std::string_view::npos && text.find('"') == std::string_view::npos ? '"' : '\'';
  out += quote;
  for (size_t at = 0; at < text.size();) append_quoted(out, utf8_next(text, at), quote);
  out += quote;
}

Status append_repr(Runtime& rt, std::string& out, const Value& value) {
  // Shared parts can make the text exponentially longer than what it stands for.
  rt.work(1);
  if (rt.spent()) return rt.exhausted();
  NBL_RETURN_IF_ERROR(rt.afford(out.size()));
  switch (value.kind()) {
    case Kind::kUndefined: out += "Undefined"; return Status();
    case Kind::kNone: out += "None"; return Status();
    case Kind::kBool: out += value.as_bool() ? "True" : "False"; return Status();
    case Kind::kInt: out += int_text(value.as_int()); return Status();
    case Kind::kFloat: out += float_text(value.as_float()); return Status();
    case Kind::kBytes: append_repr_of_bytes(out, value.text()); return Status();
    case Kind::kRange: append_range(out, value.range()); return Status();
    case Kind::kString:
      if (value.markup()) out += "Markup(";
      append_repr_of_text(out, value.text());
      if (value.markup()) out += ')';
      return Status();
    case Kind::kList:
    case Kind::kTuple:
    case Kind::kDict:
    case Kind::kView:
    case Kind::kNamespace: return append_nested(rt, out, value);
    default: append_opaque(out, value); return Status();
  }
}

Status append_str(Runtime& rt, std::string& out, const Value& value) {
  if (value.is_undefined()) return Status();
  if (!value.is_string()) return append_repr(rt, out, value);
  NBL_RETURN_IF_ERROR(rt.afford(out.size() + value.text().size()));
  out += value.text();
  rt.work_on_bytes(value.text().size());
  return Status();
}

Result<std::string> str(Runtime& rt, const Value& value) {
  std::string out;
  NBL_RETURN_IF_ERROR(append_str(rt, out, value));
  return out;
}

Result<std::string> repr(Runtime& rt, const Value& value) {
  std::string out;
  NBL_RETURN_IF_ERROR(append_repr(rt, out, value));
  return out;
}

Result<Value> to_text(Runtime& rt, const Value& value) {
  if (value.is_string()) return value;
  if (value.is_undefined()) return Value::borrowed("");
  NBL_ASSIGN_OR_RETURN(std::string text, str(rt, value));
  return rt.text(std::move(text));
}

void append_escaped(std::string& out, std::string_view text) {
  for (const char c : text) {
    switch (c) {
      case '&': out += "&amp;"; break;
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '"': out += "&#34;"; break;
      case '\'': out += "&#39;"; break;
      default: out += c;
    }
  }
}

Result<Value> escaped(Runtime& rt, const Value& value) {
  if (value.is_string() && value.markup()) return value;
  NBL_ASSIGN_OR_RETURN(const Value text, to_text(rt, value));
  std::string out;
  append_escaped(out, text.text());
  return rt.text(std::move(out), true);
}

}  // namespace nbl::jinja
