// The reference tokenizers and what other libraries say they compute: ../shared/tokenizers and ../shared/fixtures/text.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "base/json.h"
#include "text/tokenizer.h"

namespace nbl::testing {

inline std::string shared(const std::string& path) { return std::string(NIBBLE_SHARED) + "/" + path; }
inline std::string golden(const std::string& path) { return shared("fixtures/text/golden/" + path); }

#define NBL_SKIP_WITHOUT(path) \
  if (!std::filesystem::exists(path)) GTEST_SKIP() << "SKIPPED: " << (path) << " is not there"

// Calls visit(json, line number) for each line of a .jsonl file.
template <typename Visit>
void each_line(const std::string& path, Visit visit) {
  std::ifstream file(path);
  ASSERT_TRUE(file) << path;
  std::string line;
  for (int number = 1; std::getline(file, line); ++number) {
    Result<Json> json = parse_json(line, path);
    ASSERT_TRUE(json.ok()) << json.status().message();
    visit(*json, number);
  }
}

inline std::vector<int32_t> ids_of(const Json& list) { return list.get<std::vector<int32_t>>(); }

// SHA-256 in hex.
std::string sha256(std::string_view bytes);

// Every name in the golden folder.
std::vector<std::string> golden_names();

}  // namespace nbl::testing
