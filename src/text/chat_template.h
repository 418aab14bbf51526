// Chat templates: the Jinja subset that Hugging Face's templates use, rendered as transformers' apply_chat_template does.
//
// Immutable after open(); render() may run on any number of threads at once. Rendering is bounded in steps, output
// size and recursion, whatever the template does.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/status.h"

namespace nbl {

class ChatTemplates {
 public:
  // Reads tokenizer_config.json (a string, or a list of named templates), chat_template.jinja,
  // additional_chat_templates/*.jinja and special_tokens_map.json. A directory without any template is no error:
  // empty() is then true and render() answers with the way out.
  static Result<std::unique_ptr<ChatTemplates>> open(const std::string& directory);
  // One template from elsewhere, with the special tokens of the directory; `source` says where it came from.
  static Result<std::unique_ptr<ChatTemplates>> from_text(std::string_view text, const std::string& directory,
                                                          const std::string& source = "NBL_OPT_CHAT_TEMPLATE");

  virtual ~ChatTemplates() = default;
  virtual bool empty() const = 0;
  virtual std::vector<std::string> names() const = 0;  // "default", "tool_use", ...
  virtual std::string source() const = 0;              // for `describe`: the file it came from
  // request: {"messages":[{"role","content"}...], "tools"?, "documents"?, "add_generation_prompt"? (default true),
  // "continue_final_message"? (true, or the key of the message to go on with), "template"? (a name), and any further
  // key: a variable of the template}.
  // kTemplate with the template's file and line when it fails; kArgument when the request is not of that form.
  virtual Result<std::string> render(const Json& request) const = 0;
};

// Renders one snippet with a context of variables: what the unit tests and the fuzzer call.
Result<std::string> render_template(std::string_view source, const Json& context);

}  // namespace nbl
