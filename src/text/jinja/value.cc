#include "text/jinja/value.h"

#include <cmath>
#include <cstring>

#include "text/jinja/interpreter.h"

namespace nbl::jinja {
namespace {

constexpr size_t kSmallDict = 8;
constexpr int kDeepestKey = 16;  // tuples of tuples as keys

// Differs between processes with address space randomisation, so colliding keys cannot be prepared.
uint64_t hash_seed() {
  static const int anchor = 0;
  return reinterpret_cast<uintptr_t>(&anchor) * 0x9E3779B97F4A7C15ull;
}

uint64_t mix(uint64_t h) {
  h ^= h >> 32;
  h *= 0xD6E8FEB86659FD93ull;
  return h ^ (h >> 32);
}

uint64_t hash_text(std::string_view text) {
  uint64_t h = hash_seed() ^ text.size();
  while (text.size() >= 8) {
    uint64_t word;
    std::memcpy(&word, text.data(), 8);
    h = mix(h ^ word);
    text.remove_prefix(8);
  }
  for (const char c : text) h = mix(h ^ static_cast<unsigned char>(c));
  return mix(h);
}

uint64_t hash_number(const Value& value) {
  const double number = value.as_number();
  if (value.is(Kind::kFloat) && !(std::fabs(number) < 1e38)) return mix(std::hash<double>()(number));
  const Int whole = value.is(Kind::kFloat) ? static_cast<Int>(number) : value.as_int();
  if (value.is(Kind::kFloat) && static_cast<double>(whole) != number) return mix(std::hash<double>()(number));
  return mix(hash_seed() ^ static_cast<uint64_t>(whole) ^ static_cast<uint64_t>(whole >> 64));
}

uint64_t hash_key(const Value& value) {
  if (value.is_string() || value.is(Kind::kBytes)) return hash_text(value.text());
  if (value.is_number()) return hash_number(value);
  if (!value.is(Kind::kTuple)) return mix(static_cast<uint64_t>(value.kind()) + hash_seed());
  uint64_t h = value.list().items.size();
  for (const Value& item : value.list().items) h = mix(h ^ hash_key(item));
  return h;
}

bool hashable_to(const Value& value, int depth) {
  switch (value.kind()) {
    case Kind::kList:
    case Kind::kDict:
    case Kind::kView:
      return false;
    case Kind::kTuple:
      if (depth == 0) return false;
      for (const Value& item : value.list().items) {
        if (!hashable_to(item, depth - 1)) return false;
      }
      return true;
    default:
      return true;
  }
}

bool same_tuple(const List& a, const List& b) {
  if (a.items.size() != b.items.size()) return false;
  for (size_t i = 0; i < a.items.size(); ++i) {
    if (!same_key(a.items[i], b.items[i])) return false;
  }
  return true;
}

std::string quoted(std::string_view name) { return "'" + std::string(name) + "'"; }

}  // namespace

Value Value::borrowed(std::string_view text, bool markup) {
  Value v(Kind::kString);
  v.detail_ = markup;
  v.text_ = {text.data(), text.size()};
  return v;
}

Value Value::bytes(std::string_view text) {
  Value v(Kind::kBytes);
  v.text_ = {text.data(), text.size()};
  return v;
}

Value Value::undefined(Absence why, std::string_view name, Kind owner) {
  Value v(Kind::kUndefined);
  v.detail_ = static_cast<uint8_t>(why);
  v.owner_ = owner;
  v.text_ = {name.data(), name.size()};
  return v;
}

bool Value::is_callable() const {
  return kind_ == Kind::kFunction || kind_ == Kind::kMethod || kind_ == Kind::kMacro || kind_ == Kind::kJoiner ||
         kind_ == Kind::kLoop || kind_ == Kind::kUndefined;
}

const Value* Dict::find(const Value& key) const {
  const int64_t at = slot_of(key);
  return at < 0 ? nullptr : &entries[static_cast<size_t>(at)].second;
}

int64_t Dict::slot_of(const Value& key) const {
  if (index_.empty()) {
    for (size_t i = 0; i < entries.size(); ++i) {
      if (same_key(entries[i].first, key)) return static_cast<int64_t>(i);
    }
    return -1;
  }
  const size_t mask = index_.size() - 1;
  for (size_t slot = hash_key(key) & mask; index_[slot] != 0; slot = (slot + 1) & mask) {
    if (same_key(entries[index_[slot] - 1].first, key)) return index_[slot] - 1;
  }
  return -1;
}

void Dict::set(const Value& key, const Value& value) {
  const int64_t at = slot_of(key);
  if (at >= 0) {
    entries[static_cast<size_t>(at)].second = value;
    return;
  }
  entries.emplace_back(key, value);
  if (entries.size() <= kSmallDict) return;
  if (entries.size() * 2 > index_.size()) return rebuild_index();
  const size_t mask = index_.size() - 1;
  size_t slot = hash_key(key) & mask;
  while (index_[slot] != 0) slot = (slot + 1) & mask;
  index_[slot] = static_cast<uint32_t>(entries.size());
}

void Dict::rebuild_index() {
  index_.assign(entries.size() <= 16 ? 64 : index_.size() * 4, 0);
  const size_t mask = index_.size() - 1;
  for (size_t i = 0; i < entries.size(); ++i) {
    size_t slot = hash_key(entries[i].first) & mask;
    while (index_[slot] != 0) slot = (slot + 1) & mask;
    index_[slot] = static_cast<uint32_t>(i + 1);
  }
}

int64_t Range::length() const {
  const Int span = step > 0 ? stop - start : start - stop;
  const Int stride = step > 0 ? step : -step;
  return span <= 0 ? 0 : static_cast<int64_t>((span + stride - 1) / stride);
}

bool truth(const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined:
    case Kind::kNone: return false;
    case Kind::kBool:
    case Kind::kInt: return value.as_int() != 0;
    case Kind::kFloat: return value.as_float() != 0;
    case Kind::kString:
    case Kind::kBytes: return !value.text().empty();
    case Kind::kList:
    case Kind::kTuple: return !value.list().items.empty();
    case Kind::kDict: return !value.dict().entries.empty();
    case Kind::kView: return !value.view().dict->entries.empty();
    case Kind::kRange: return value.range().length() != 0;
    default: return true;
  }
}

const char* type_name(Kind kind) {
  switch (kind) {
    case Kind::kUndefined: return "Undefined";
    case Kind::kNone: return "NoneType";
    case Kind::kBool: return "bool";
    case Kind::kInt: return "int";
    case Kind::kFloat: return "float";
    case Kind::kString: return "str";
    case Kind::kBytes: return "bytes";
    case Kind::kList: return "list";
    case Kind::kTuple: return "tuple";
    case Kind::kDict: return "dict";
    case Kind::kView: return "dict_view";
    case Kind::kRange: return "range";
    case Kind::kIterator: return "generator";
    case Kind::kNamespace: return "Namespace";
    case Kind::kCycler: return "Cycler";
    case Kind::kJoiner: return "Joiner";
    case Kind::kLoop: return "LoopContext";
    case Kind::kFunction: return "function";
    case Kind::kMethod: return "builtin_function_or_method";
    case Kind::kMacro: return "Macro";
  }
  return "object";
}

const char* type_name(const Value& value) {
  if (value.is(Kind::kIterator)) return value.iterator().type_name;
  if (!value.is(Kind::kView)) return type_name(value.kind());
  static const char* const kNames[] = {"dict_keys", "dict_values", "dict_items"};
  return kNames[value.view().part];
}

bool same_key(const Value& a, const Value& b) {
  if (a.is_string() && b.is_string()) return a.text() == b.text();
  if (a.is_integral() && b.is_integral()) return a.as_int() == b.as_int();
  if (a.is_number() && b.is_number()) return a.as_number() == b.as_number();
  if (a.kind() != b.kind()) return false;
  if (a.is(Kind::kTuple)) return same_tuple(a.list(), b.list());
  if (a.is(Kind::kBytes)) return a.text() == b.text();
  return a.is_none() || a.is_undefined() || a.identity() == b.identity();
}

bool hashable(const Value& value) { return hashable_to(value, kDeepestKey); }

std::string undefined_message(const Value& value) {
  const std::string_view name = value.text();
  const std::string owner = value.owner() == Kind::kNone ? "None" : type_name(value.owner()) + std::string(" object");
  switch (value.absence()) {
    case Absence::kName: return name.empty() ? "the value is undefined" : quoted(name) + " is undefined";
    case Absence::kAttribute: return quoted(owner) + " has no attribute " + quoted(name);
    case Absence::kElement: return owner + " has no element " + std::string(name);
    case Absence::kParameter: return "parameter " + quoted(name) + " was not provided";
    case Absence::kUnsafe: return "access to attribute " + quoted(name) + " of '" + type_name(value.owner()) + "' object is unsafe";
    case Absence::kSentence: break;
  }
  return std::string(name);
}

}  // namespace nbl::jinja
