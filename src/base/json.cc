#include "base/json.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

namespace nbl {

// What moves is never lost half way: a vector of values grows by moving them.
static_assert(std::is_nothrow_move_constructible_v<Json> && std::is_nothrow_move_constructible_v<Json::Member>);

// The type is set last: what could not be made is not destroyed either.
Json::Json(const Json& other) {
  switch (other.type_) {
    case Type::kNull: break;
    case Type::kBoolean: boolean_ = other.boolean_; break;
    case Type::kInteger: integer_ = other.integer_; break;
    case Type::kUnsigned: unsigned_ = other.unsigned_; break;
    case Type::kFloat: float_ = other.float_; break;
    case Type::kString: string_ = new std::string(*other.string_); break;
    case Type::kArray: array_ = new Array(*other.array_); break;
    case Type::kObject: members_ = new Members(*other.members_); break;
  }
  type_ = other.type_;
}

Json::~Json() {
  switch (type_) {
    case Type::kString: delete string_; break;
    case Type::kArray: delete array_; break;
    case Type::kObject: delete members_; break;
    default: break;
  }
}

void Json::swap(Json& other) noexcept {
  static_assert(sizeof unsigned_ >= sizeof string_);
  uint64_t mine, others;  // whatever the unions hold
  std::memcpy(&mine, &unsigned_, sizeof mine);
  std::memcpy(&others, &other.unsigned_, sizeof others);
  std::memcpy(&unsigned_, &others, sizeof others);
  std::memcpy(&other.unsigned_, &mine, sizeof mine);
  std::swap(type_, other.type_);
}

Json::Json(const char* text) : Json(std::string(text)) {}
Json::Json(std::string_view text) : Json(std::string(text)) {}
Json::Json(std::string text) {
  string_ = new std::string(std::move(text));
  type_ = Type::kString;
}

Json::Json(std::initializer_list<Json> items) {
  const auto is_member = [](const Json& item) { return item.is_array() && item.size() == 2 && item[size_t{0}].is_string(); };
  if (!std::all_of(items.begin(), items.end(), is_member)) {
    array(items).swap(*this);
    return;
  }
  Json out = object();
  out.members_->reserve(items.size());
  for (const Json& item : items) out.members_->push_back({item[size_t{0}].string(), item[size_t{1}]});
  out.swap(*this);
}

Json Json::array(std::initializer_list<Json> items) {
  Json out;
  out.array_ = new Array(items);
  out.type_ = Type::kArray;
  return out;
}

Json Json::object() {
  Json out;
  out.members_of_this();
  return out;
}

const char* Json::type_name() const {
  static constexpr const char* kNames[] = {"null", "boolean", "number", "number", "number", "string", "array", "object"};
  return kNames[static_cast<int>(type_)];
}

bool Json::is_number_unsigned() const {
  return type_ == Type::kUnsigned || (type_ == Type::kInteger && integer_ >= 0);
}

void Json::is_no(const char* wanted) const {
  throw std::logic_error(std::string("a JSON ") + type_name() + " was taken for a " + wanted);
}

const std::string& Json::string() const {
  if (is_string()) return *string_;
  is_no("string");
}

size_t Json::size() const {
  return is_array() ? array_->size() : items().size();
}

const Json::Members& Json::items() const {
  static const Members kNone;
  return is_object() ? *members_ : kNone;
}

const Json* Json::member(std::string_view key) const {
  for (const Member& member : items()) {
    if (member.name == key) return &member.content;
  }
  return nullptr;
}

Json::const_iterator Json::find(std::string_view key) const {
  for (const Member& member : items()) {
    if (member.name == key) return const_iterator(&member);
  }
  return end();
}

Json::iterator Json::find(std::string_view key) {
  if (is_object()) {
    for (Member& member : *members_) {
      if (member.name == key) return iterator(&member);
    }
  }
  return end();
}

Json::const_iterator Json::begin() const {
  if (is_array()) return const_iterator(static_cast<const Json*>(array_->data()));
  return const_iterator(items().data());
}

Json::const_iterator Json::end() const {
  if (is_array()) return const_iterator(static_cast<const Json*>(array_->data() + array_->size()));
  return const_iterator(items().data() + items().size());
}

Json::iterator Json::begin() {
  if (is_array()) return iterator(array_->data());
  if (is_object()) return iterator(members_->data());
  return iterator();
}

Json::iterator Json::end() {
  if (is_array()) return iterator(array_->data() + array_->size());
  if (is_object()) return iterator(members_->data() + members_->size());
  return iterator();
}

namespace {
const Json& nothing() {
  static const Json kNull;
  return kNull;
}
}  // namespace

const Json& Json::operator[](std::string_view key) const {
  const Json* found = member(key);
  return found ? *found : nothing();
}

Json& Json::operator[](std::string_view key) {
  if (const Json* found = member(key)) return const_cast<Json&>(*found);
  return add_member(std::string(key));
}

const Json& Json::operator[](size_t index) const {
  return is_array() && index < array_->size() ? (*array_)[index] : nothing();
}

const Json& Json::front() const { return empty() ? nothing() : *begin(); }

Json& Json::operator[](size_t index) {
  Array& array = array_of_this();
  if (index >= array.size()) is_no("array of so many");
  return array[index];
}

Json::Array& Json::array_of_this() {
  if (is_null()) {
    array_ = new Array();
    type_ = Type::kArray;
  }
  if (is_array()) return *array_;
  is_no("array");
}

Json::Members& Json::members_of_this() {
  if (is_null()) {
    members_ = new Members();
    type_ = Type::kObject;
  }
  if (is_object()) return *members_;
  is_no("object");
}

void Json::push_back(Json value) { array_of_this().push_back(std::move(value)); }

Json& Json::add_member(std::string key) {
  Members& members = members_of_this();
  members.push_back({std::move(key), Json()});
  return members.back().content;
}

void Json::erase(std::string_view key) {
  if (!is_object()) return;
  members_->erase(std::remove_if(members_->begin(), members_->end(), [&](const Member& member) { return member.name == key; }),
                  members_->end());
}

// By sorting: an object of a hostile file may have a million keys.
void Json::unite() {
  Members& members = members_of_this();
  std::vector<size_t> order(members.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    const int difference = members[a].name.compare(members[b].name);
    return difference != 0 ? difference < 0 : a < b;
  });
  std::vector<bool> repeated(members.size());
  bool any = false;
  for (size_t i = 0, first = 0; i < order.size(); ++i) {
    if (members[order[i]].name != members[order[first]].name) first = i;
    if (first == i) continue;
    members[order[first]].content = std::move(members[order[i]].content);
    repeated[order[i]] = any = true;
  }
  if (!any) return;
  size_t kept = 0;
  for (size_t i = 0; i < members.size(); ++i) {
    if (repeated[i]) continue;
    if (kept != i) members[kept] = std::move(members[i]);
    ++kept;
  }
  members.resize(kept);
}

bool operator==(const Json& a, const Json& b) {
  if (a.is_number() && b.is_number()) {
    if (a.is_number_float() || b.is_number_float()) return a.get<double>() == b.get<double>();
    return a.type() == b.type() && a.get<uint64_t>() == b.get<uint64_t>();
  }
  if (a.type() != b.type()) return false;
  switch (a.type()) {
    case Json::Type::kNull: return true;
    case Json::Type::kBoolean: return a.get<bool>() == b.get<bool>();
    case Json::Type::kString: return a.string() == b.string();
    default: break;
  }
  // Objects are equal whatever the order of their keys.
  if (a.size() != b.size()) return false;
  if (a.is_array()) return *a.array_ == *b.array_;
  return std::all_of(a.items().begin(), a.items().end(), [&](const Json::Member& member) {
    const Json* other = b.member(member.name);
    return other && *other == member.content;
  });
}

}  // namespace nbl
