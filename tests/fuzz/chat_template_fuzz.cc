// A chat template from tokenizer_config.json, rendered for a conversation: bounded in steps, output and recursion.
#include <cstdint>
#include <string_view>

#include "base/json.h"
#include "text/chat_template.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const nbl::Json context = {{"messages", {{{"role", "system"}, {"content", "s"}}, {{"role", "user"}, {"content", "u <b>\n"}},
                                                  {{"role", "assistant"}, {"content", nullptr}, {"tool_calls", {{{"name", "f"}}}}}}},
                                    {"add_generation_prompt", true}, {"bos_token", "<s>"}, {"eos_token", "</s>"}, {"tools", nullptr}};
  const auto text = nbl::render_template(std::string_view(reinterpret_cast<const char*>(data), size), context);
  (void)text.ok();
  return 0;
}
