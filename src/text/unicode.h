// What tokenizer.json's steps ask of Unicode: classes of code points, lower case, normal forms.
//
// The base is utf8proc; unicode_tables.cc holds where the `tokenizers` package, which checkpoints were made with,
// was built on other versions of Unicode (its regexes on 16, its normalizers on much older tables).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace nbl::unicode {

// The general categories, in utf8proc's order.
enum class Category : uint8_t {
  kCn, kLu, kLl, kLt, kLm, kLo, kMn, kMc, kMe, kNd, kNl, kNo, kPc, kPd, kPs, kPe, kPi, kPf, kPo,
  kSm, kSc, kSk, kSo, kZs, kZl, kZp, kCc, kCf, kCs, kCo
};

Category category(uint32_t code_point);  // Unicode 16

inline bool is_letter(Category c) { return c >= Category::kLu && c <= Category::kLo; }
inline bool is_mark(Category c) { return c >= Category::kMn && c <= Category::kMe; }
inline bool is_number(Category c) { return c >= Category::kNd && c <= Category::kNo; }
inline bool is_punctuation(Category c) { return c >= Category::kPc && c <= Category::kPo; }

// Unicode's White_Space: what \s, Strip and WhitespaceSplit mean.
bool is_space(uint32_t code_point);
bool is_word(uint32_t code_point);         // \w: letters, marks, decimal digits, connectors
bool is_numeric(uint32_t code_point);      // what Digits splits on: also fractions and Roman numerals
bool is_punctuation_step(uint32_t code_point);  // what Punctuation and BertPreTokenizer split on
bool is_accent(uint32_t code_point);       // what StripAccents removes
bool is_bert_accent(uint32_t code_point);  // what BertNormalizer's strip_accents removes
bool is_bert_control(uint32_t code_point); // what BertNormalizer's clean_text removes
bool is_bert_space(uint32_t code_point);   // what BertNormalizer's clean_text makes a space
bool is_bert_cjk(uint32_t code_point);     // what BertNormalizer puts spaces around
uint16_t script(uint32_t code_point);      // a number for what UnicodeScripts keeps together; 0 goes with anything

// Lower case of one code point, one or two code points long. There is no final sigma.
void append_lowercase(std::string& out, uint32_t code_point);

enum class NormalForm { kNfc, kNfd, kNfkc, kNfkd };

// Decomposition of one code point under the form; the first code point of the result is a starter or not.
void decompose(uint32_t code_point, bool compatibility, std::vector<int32_t>& out);
int combining_class(uint32_t code_point);
// True if nothing before the code point can change or join it: a safe place to cut a text before normalizing it.
bool starts_segment(uint32_t first_of_decomposition);
// Orders the marks of a fully decomposed segment and, for NFC and NFKC, composes it.
void finish_segment(std::vector<int32_t>& code_points, bool compose);

}  // namespace nbl::unicode
