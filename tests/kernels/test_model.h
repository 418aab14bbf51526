// A small random decoder: packed for a backend, and computed plainly in double to compare with.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "backends.h"
#include "model/decoder.h"
#include "support/decoder_parts.h"

namespace nbl {

struct ModelCase {
  const char* name = "llama";
  int64_t hidden = 64, intermediate = 96, layers = 2, heads = 4, kv_heads = 2, head_dim = 16, vocab = 70;
  int format = 0;  // index into format_cases()
  bool fused = true, biases = false, head_norms = false;
  Norm::Kind norm = Norm::Kind::kRms;
  Activation activation = Activation::kSilu;
  int64_t window = 0;
  int64_t rotary_dim = -1;  // -1: head_dim
  testing::TestRope rope = testing::TestRope::kPlain;
  bool still_layers = false;  // every second one does not turn
  DType embedding = DType::kF32;
  double outlier_threshold = -1;  // of every matrix
  float planted = 1;              // what two columns of every norm are multiplied by
};

class TestModel {
 public:
  TestModel(const ModelCase& test, unsigned seed);

  // The decoder with its weights packed by `backend`.
  std::shared_ptr<const Decoder> pack(const Backend& backend) const;
  // Logits [tokens.size()][vocab] of a sequence from its beginning, for calls that end at the positions in
  // `calls`.
  std::vector<double> logits(const std::vector<int32_t>& tokens, const std::vector<int64_t>& calls) const;
  const Decoder& plain() const { return decoder_; }
  // Makes a scale of one part of a matrix what no scale should be; matrices count through a block, the head is the last one.
  void spoil(size_t matrix, size_t part, float value) { matrices_[matrix].parts[part].scales[1] = value; }
  size_t parts(size_t matrix) const { return matrices_[matrix].parts.size(); }

 private:
  struct Matrix {
    std::vector<QuantWeight> parts;
  };  // packed together when the case is fused
  Linear linear(const std::string& name, std::vector<int64_t> rows, int64_t columns, const FormatCase& format,
                bool bias);
  std::vector<Linear> linears(const std::string& name, std::vector<int64_t> rows, int64_t columns);
  Norm norm(int64_t width);
  std::vector<double> apply(const Linear& linear, size_t matrix, const std::vector<double>& x) const;

  ModelCase case_;
  std::mt19937 random_;
  Decoder decoder_;
  std::vector<Matrix> matrices_;  // in the order of each_linear()
  std::vector<uint8_t> embedding_;
};

}  // namespace nbl
