// What another tool computed for a checkpoint: golden.json and golden.safetensors of a directory, in one form.
//
// Three spellings are in use. Tensors are `logits.0`, `greedy.0`, ... where prompts have numbers (with the logits that
// chose the last greedy id in `greedy_last_logits.0`), or `plain.logits`, `plain.last`, `plain.all`, where they have
// names; and ids stand in the JSON, or in the tensors, or in both.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

namespace golden {

struct Prompt {
  std::string name;
  std::vector<int32_t> ids;
  std::vector<float> logits;        // [rows, vocab]: of the last `rows` positions of the prompt
  int64_t rows = 0;
  std::vector<int32_t> greedy;      // ids of the argmax steps that continue the prompt, never stopping
  std::vector<float> gaps;          // per step: best logit minus the second; one value stands for all of them
  std::vector<float> last_logits;   // [vocab] that chose the last greedy id; may be empty

  std::string text;                 // encodes to ids; empty where only ids are known
  nlohmann::ordered_json messages;          // the text is this conversation rendered; null where it is not one
  std::string greedy_text;

  float gap(size_t step) const { return gaps.empty() ? 0 : gaps.size() == 1 ? gaps[0] : gaps[step]; }
};

// Windows of a text scored alone; see Text in the library's perplexity for the protocol.
struct Perplexity {
  std::string file;
  int64_t characters = 0;           // of the file's start; 0: all
  int64_t window = 0;
  double perplexity = 0;
};

struct Record {
  bool unrounded = false;           // the tool rounds dequantized weights to float16; these values are from before that
  std::vector<Prompt> prompts;
  std::vector<Perplexity> perplexities;
};

// Throws std::runtime_error with the file's name.
Record read_record(const std::string& directory);

}  // namespace golden
