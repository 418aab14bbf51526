#include "text/family_template.h"

namespace nbl {
namespace {

struct Family {
  const char* tokens[3];  // special tokens that must all be there; null where fewer are asked for
  FamilyTemplate chat;
};

constexpr Family kFamilies[] = {
    // OpenAI's chatml.md; Qwen and OpenOrca document the same.
    {{"<|im_start|>", "<|im_end|>", nullptr},
     {"ChatML, because the vocabulary has <|im_start|> and <|im_end|>",
      "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
      "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"}},
    // Meta's model card of Llama 3, "Prompt format".
    {{"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"},
     {"Llama 3's format, because the vocabulary has <|start_header_id|> and <|eot_id|>",
      "{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + "
      "message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
      "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"}},
};

bool has_all(const Tokenizer& tokenizer, const Family& family) {
  for (const char* token : family.tokens) {
    if (!token) continue;
    const int32_t id = tokenizer.id_of(token);
    if (id < 0 || !tokenizer.is_special(id)) return false;
  }
  return true;
}

}  // namespace

const FamilyTemplate* family_template(const Tokenizer& tokenizer) {
  for (const Family& family : kFamilies) {
    if (has_all(tokenizer, family)) return &family.chat;
  }
  return nullptr;
}

}  // namespace nbl
