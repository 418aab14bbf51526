// Answers questions about one tokenizer, a JSON per line: what differential.py compares with other libraries.
//
//   tokenizer_dump DIRECTORY < questions > answers
//   {"text": "..."}  ->  {"ids": [...], "plain": [...]}
//   {"ids": [...]}   ->  {"text": "...", "skipped": "...", "streamed": "..."}
// A tokenizer that does not open, or a text that is refused, is answered with {"error": "..."}.
#include <iostream>
#include <string>

#include "base/json.h"
#include "text/tokenizer.h"

namespace {

using nbl::Json;

Json refusal(const nbl::Status& status) { return Json{{"error", status.message()}}; }

Json answer(const nbl::Tokenizer& tokenizer, const Json& question) {
  if (question.contains("text")) {
    nbl::EncodeOptions options;
    const auto ids = tokenizer.encode(question["text"].get<std::string>(), options);
    options.add_special = false;
    const auto plain = tokenizer.encode(question["text"].get<std::string>(), options);
    if (!ids.ok()) return refusal(ids.status());
    return Json{{"ids", *ids}, {"plain", *plain}};
  }
  const auto ids = question["ids"].get<std::vector<int32_t>>();
  std::string streamed;
  const auto stream = tokenizer.stream(false);
  for (const int32_t id : ids) streamed += stream->push(id);
  streamed += stream->flush();
  return Json{{"text", tokenizer.decode(ids.data(), ids.size(), false)},
              {"skipped", tokenizer.decode(ids.data(), ids.size(), true)},
              {"streamed", streamed}};
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 2) {
    std::cerr << "usage: tokenizer_dump DIRECTORY < questions > answers\n";
    return 2;
  }
  const auto tokenizer = nbl::Tokenizer::open(arguments[1]);
  for (std::string line; std::getline(std::cin, line);) {
    const auto question = nbl::parse_json(line, "question");
    if (!question.ok()) {
      std::cerr << question.status().message() << "\n";
      return 2;
    }
    std::cout << nbl::to_text(tokenizer.ok() ? answer(**tokenizer, *question) : refusal(tokenizer.status())) << "\n";
  }
  return 0;
}
