// The tokenizer that a pipeline of steps makes: normalize, cut, encode, wrap; and back.
#pragma once

#include <memory>
#include <string>

#include "text/scratch_pool.h"
#include "text/tokenizer.h"
#include "text/tokenizer_config.h"
#include "text/tokenizer_json.h"

namespace nbl {

class Pipeline final : public Tokenizer {
 public:
  // `source` names the files for describe: "tokenizer.json".
  static std::unique_ptr<Tokenizer> make(PipelineParts parts, const TokenizerConfig& config, std::string source);

  Result<std::vector<int32_t>> encode(std::string_view text, const EncodeOptions& options,
                                      std::vector<TokenSpan>* spans) const override;
  std::string decode(const int32_t* ids, size_t count, bool skip_special) const override;
  std::unique_ptr<StreamDecoder> stream(bool skip_special) const override;
  std::string token_bytes(int32_t id) const override;
  int32_t vocabulary_size() const override;
  int32_t id_of(std::string_view token) const override;
  bool is_special(int32_t id) const override;
  std::string description() const override;
  int32_t bos_id() const override { return bos_id_; }
  int32_t eos_id() const override { return eos_id_; }
  int32_t pad_id() const override { return pad_id_; }

 private:
  struct Scratch {
    Regex::Scratch regex;
    EncodedPieces pieces;
    PreTokenized state;
  };

  explicit Pipeline(PipelineParts parts) : parts_(std::move(parts)) {}
  Status encode_segment(std::string_view text, size_t base, bool parse_special, Scratch& scratch,
                        std::vector<TokenSpan>* spans) const;
  Status encode_between(AlignedText text, Scratch& scratch, std::vector<TokenSpan>* spans) const;

  PipelineParts parts_;
  bool needs_origin_ = false;  // a step asks where in the original a piece began
  std::string source_;
  int32_t bos_id_ = -1, eos_id_ = -1, pad_id_ = -1;
  mutable ScratchPool<Scratch> scratch_;
};

}  // namespace nbl
