// How fast one tokenizer encodes and decodes a text, on one thread. Prints one JSON line.
//
//   tokenizer_bench DIRECTORY TEXT [SECONDS] [paragraphs]
// With `paragraphs` the text is encoded in parts, cut after each empty line, as prompts come; else in one piece.
// "encode_mb_per_s" is of the text's bytes, the best of as many rounds as fit into SECONDS; "ids_hash" lets
// tokenizer_peers.py check that both sides did the same work.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "text/tokenizer.h"

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// The best of the rounds that fit into the time.
template <typename Work>
double best_seconds(double limit, Work work) {
  double best = 1e9;
  const auto begin = Clock::now();
  do {
    const auto start = Clock::now();
    work();
    best = std::min(best, seconds_since(start));
  } while (seconds_since(begin) < limit);
  return best;
}

// FNV-1a over the ids' bytes.
uint64_t hash_of(const std::vector<int32_t>& ids) {
  uint64_t hash = 0xcbf29ce484222325ull;
  for (const int32_t id : ids) {
    for (int shift = 0; shift < 32; shift += 8) hash = (hash ^ (static_cast<uint32_t>(id) >> shift & 0xFF)) * 0x100000001b3ull;
  }
  return hash;
}

std::vector<std::string_view> parts_of(std::string_view text, bool paragraphs) {
  std::vector<std::string_view> parts;
  while (paragraphs) {
    const size_t end = text.find("\n\n");
    if (end == std::string_view::npos) break;
    parts.push_back(text.substr(0, end + 2));
    text.remove_prefix(end + 2);
  }
  if (!text.empty()) parts.push_back(text);
  return parts;
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 3) {
    std::fprintf(stderr, "usage: tokenizer_bench DIRECTORY TEXT [SECONDS] [paragraphs]\n");
    return 2;
  }
  const double limit = count > 3 ? std::atof(arguments[3]) : 2;
  const auto start = Clock::now();
  const auto tokenizer = nbl::Tokenizer::open(arguments[1]);
  const double load = seconds_since(start);
  const auto text = nbl::read_text_file(arguments[2]);
  if (!tokenizer.ok() || !text.ok()) {
    std::fprintf(stderr, "%s\n", (tokenizer.ok() ? text.status() : tokenizer.status()).message().c_str());
    return 1;
  }
  nbl::EncodeOptions options;
  options.add_special = false;
  std::vector<int32_t> ids;
  const auto parts = parts_of(*text, count > 4 && std::string_view(arguments[4]) == "paragraphs");
  const double encode = best_seconds(limit, [&] {
    ids.clear();
    for (const std::string_view part : parts) {
      const std::vector<int32_t> found = (*tokenizer)->encode(part, options).value();
      ids.insert(ids.end(), found.begin(), found.end());
    }
  });
  const double decode = best_seconds(limit / 2, [&] { (*tokenizer)->decode(ids.data(), ids.size(), false); });
  std::printf("{\"load_ms\": %.1f, \"encode_mb_per_s\": %.2f, \"decode_mb_per_s\": %.2f, \"ids\": %zu, \"ids_hash\": \"%016llx\"}\n",
              load * 1e3, static_cast<double>(text->size()) / encode / 1e6, static_cast<double>(text->size()) / decode / 1e6, ids.size(),
              static_cast<unsigned long long>(hash_of(ids)));
  return 0;
}
