#include "text/chat_request.h"

#include <algorithm>
#include <iterator>

#include "text/jinja/strings.h"

namespace nbl {
namespace {

// Keys whose value is null are as if they were not there.
Json without_nulls(const Json& message) {
  Json out = Json::object();
  for (const auto& [key, value] : message.items()) {
    if (!value.is_null()) out[key] = value;
  }
  return out;
}

constexpr const char* kThoughts[] = {"reasoning_content", "thinking", "reasoning"};

// Templates ask for the thoughts of an answer by either name.
Json with_thoughts(const Json& message) {
  for (const char* key : kThoughts) {
    const auto found = message.find(key);
    if (found == message.end()) continue;
    const Json thoughts = *found;
    Json out = {{"thinking", thoughts}};
    for (const auto& [name, value] : message.items()) out[name] = value;
    out["reasoning_content"] = thoughts;
    return out;
  }
  return message;
}

Result<Json> messages_of(const Json& request) {
  const auto found = request.find("messages");
  if (found == request.end() || !found->is_array()) {
    return error(Code::kArgument,
                 "the request has no list of \"messages\"; it is {\"messages\": [{\"role\": \"user\", \"content\": \"...\"}]}");
  }
  if (found->empty()) return error(Code::kArgument, "the conversation is empty: \"messages\" has no entry");
  Json out = Json::array();
  for (const Json& message : *found) {
    if (!message.is_object()) return error(Code::kArgument, "an entry of \"messages\" is %s, expected an object", message.type_name());
    out.push_back(with_thoughts(without_nulls(message)));
  }
  return out;
}

// Marks the place where the model is to go on. It ends in a space: where the template trims what it is given, the mark
// has none.
constexpr std::string_view kMark = "CONTINUE_FINAL_MESSAGE_TAG ";

Status no_text(const std::string& field) {
  return error(Code::kTemplate, "the final message cannot be continued: it has no text in \"%s\"", field.c_str());
}

// Appends the mark to the last message's `field`, to its last text where that is a list of parts. Gives the text.
Result<std::string> mark_final(const std::string& field, Json& last) {
  if (!last.contains(field)) return no_text(field);
  const Json value = last[field];
  if (value.is_string()) {
    const bool is_thoughts = std::find(std::begin(kThoughts), std::end(kThoughts), field) != std::end(kThoughts);
    const std::string marked = value.get<std::string>() + std::string(kMark);
    last[field] = marked;
    // Thoughts stand in the message under several names.
    for (const char* other : kThoughts) {
      if (is_thoughts && last.contains(other) && last[other] == value) last[other] = marked;
    }
    return value.get<std::string>();
  }
  for (size_t i = value.is_array() ? value.size() : 0; i-- > 0;) {
    Json& part = last[field][i];
    if (!part.is_object() || !part.contains("text") || !part["text"].is_string()) continue;
    const std::string text = part["text"].get<std::string>();
    part["text"] = text + std::string(kMark);
    return text;
  }
  return no_text(field);
}

// Cuts the rendered conversation at the mark, so that the model goes on there.
Result<std::string> continue_final(const std::string& rendered, const std::string& text) {
  const size_t at = rendered.rfind(kMark.substr(0, kMark.size() - 1));
  if (at == std::string::npos || rendered.find(jinja::strip_sides(text, jinja::kLeft | jinja::kRight)) == std::string::npos) {
    return error(Code::kTemplate, "the final message cannot be continued: its content does not stand in the rendered conversation");
  }
  // A template that trims the message has not trimmed what stands in front of the mark.
  const std::string_view before = std::string_view(rendered).substr(0, at);
  return std::string(rendered.compare(at, kMark.size(), kMark) == 0 ? before : jinja::strip_sides(before, jinja::kRight));
}

// What "continue_final_message" asks for: the name of the message's field, or nothing.
Result<std::string> continued_field(const Json& request) {
  const auto found = request.find("continue_final_message");
  if (found == request.end() || found->is_null()) return std::string();
  if (found->is_string()) return found->get<std::string>();
  if (found->is_boolean()) return std::string(found->get<bool>() ? "content" : "");
  return error(Code::kArgument, "\"continue_final_message\" is a %s, expected true, false or the name of a message's key",
               found->type_name());
}

}  // namespace

bool continues_message(const Json& request) {
  const Result<std::string> field = continued_field(request);
  return field.ok() && !field->empty();
}

Result<std::string> render_chat(const jinja::Template& chat_template, const Json& request, const Json& special_tokens,
                                std::optional<CivilTime> now) {
  if (!request.is_object()) return error(Code::kArgument, "the request is not a JSON object");
  NBL_ASSIGN_OR_RETURN(const std::string continued, continued_field(request));
  Result<bool> prompts = json_bool(request, "add_generation_prompt", continued.empty());
  if (!prompts.ok()) return error(Code::kArgument, "%s", prompts.status().message().c_str());
  if (!continued.empty() && *prompts) return error(Code::kArgument, "continue_final_message and add_generation_prompt exclude each other");

  Json variables = special_tokens;
  for (const auto& [key, value] : request.items()) {
    if (key != "template" && key != "continue_final_message") variables[key] = value;
  }
  NBL_ASSIGN_OR_RETURN(variables["messages"], messages_of(request));
  variables["add_generation_prompt"] = *prompts;
  for (const char* key : {"tools", "documents"}) {
    if (!variables.contains(key)) variables[key] = nullptr;
  }
  if (continued.empty()) return chat_template.render(variables, now);
  NBL_ASSIGN_OR_RETURN(const std::string text, mark_final(continued, variables["messages"].back()));
  NBL_ASSIGN_OR_RETURN(const std::string rendered, chat_template.render(variables, now));
  return continue_final(rendered, text);
}

}  // namespace nbl
