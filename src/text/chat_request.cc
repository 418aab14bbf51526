#include "text/chat_request.h"

#include <algorithm>

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

// Templates ask for the thoughts of an answer by either name.
void spread_reasoning(Json& message) {
  for (const char* key : {"reasoning_content", "reasoning", "thinking"}) {
    const auto found = message.find(key);
    if (found == message.end() || !found->is_string()) continue;
    const Json text = *found;
    for (const char* other : {"reasoning_content", "thinking"}) {
      if (!message.contains(other)) message[other] = text;
    }
    return;
  }
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
    out.push_back(without_nulls(message));
    spread_reasoning(out.back());
  }
  return out;
}

std::string stripped(const std::string& text, bool left_only = false) {
  const char* space = " \t\n\r\f\v";
  const size_t first = text.find_first_not_of(space);
  if (first == std::string::npos) return "";
  const size_t last = left_only ? text.size() - 1 : text.find_last_not_of(space);
  return text.substr(first, last - first + 1);
}

// Cuts the rendered conversation behind the last message's text, so that the model goes on with it.
Result<std::string> continue_final(const std::string& rendered, const Json& last) {
  std::string content;
  const Json& value = last.contains("content") ? last["content"] : Json();
  if (value.is_string()) content = value.get<std::string>();
  if (value.is_array()) {
    for (const Json& part : value) {
      if (part.is_object() && part.value("type", "") == "text" && part.contains("text") && part["text"].is_string())
        content = part["text"].get<std::string>();
    }
  }
  const std::string core = stripped(content);
  const size_t at = core.empty() ? std::string::npos : rendered.rfind(core);
  if (at == std::string::npos) {
    return error(Code::kTemplate, "the final message cannot be continued: its content does not stand in the rendered conversation");
  }
  // White space at the end of the message is kept where the template kept it.
  const std::string whole = stripped(content, true);
  if (rendered.compare(at, whole.size(), whole) == 0) return rendered.substr(0, at + whole.size());
  return rendered.substr(0, at + core.size());
}

}  // namespace

Result<std::string> render_chat(const jinja::Template& chat_template, const Json& request, const Json& special_tokens,
                                std::optional<CivilTime> now) {
  if (!request.is_object()) return error(Code::kArgument, "the request is not a JSON object");
  Result<bool> continues = json_bool(request, "continue_final_message", false);
  if (!continues.ok()) return error(Code::kArgument, "%s", continues.status().message().c_str());
  Result<bool> prompts = json_bool(request, "add_generation_prompt", !*continues);
  if (!prompts.ok()) return error(Code::kArgument, "%s", prompts.status().message().c_str());
  if (*continues && *prompts) return error(Code::kArgument, "continue_final_message and add_generation_prompt exclude each other");

  Json variables = special_tokens;
  for (const auto& [key, value] : request.items()) {
    if (key != "template" && key != "continue_final_message") variables[key] = value;
  }
  NBL_ASSIGN_OR_RETURN(variables["messages"], messages_of(request));
  variables["add_generation_prompt"] = *prompts;
  for (const char* key : {"tools", "documents"}) {
    if (!variables.contains(key)) variables[key] = nullptr;
  }
  NBL_ASSIGN_OR_RETURN(std::string rendered, chat_template.render(variables, now));
  if (!*continues) return rendered;
  return continue_final(rendered, variables["messages"].back());
}

}  // namespace nbl
