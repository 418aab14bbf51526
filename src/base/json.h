// Json: a JSON value, and the way from and to text. Objects keep the order of their keys: GPTQModel's `dynamic` depends on it.
//
// The value is our own because nothing may happen to it when memory runs out: its destructor takes no memory (nlohmann's
// does, and so ends the process), and what fails leaves it as it was (libstdc++'s variant does not: a copy that throws
// destroys what it has not made). nlohmann's parser reads the text.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <iosfwd>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/status.h"

namespace nbl {

class Json {
 public:
  enum class Type : uint8_t { kNull, kBoolean, kInteger, kUnsigned, kFloat, kString, kArray, kObject };
  struct Member;
  using Array = std::vector<Json>;
  using Members = std::vector<Member>;
  template <bool kConstant>
  class Iterator;
  using iterator = Iterator<false>;
  using const_iterator = Iterator<true>;

  Json() noexcept {}
  Json(const Json& other);
  Json(Json&& other) noexcept { swap(other); }
  Json& operator=(Json other) noexcept {
    swap(other);
    return *this;
  }
  ~Json();
  void swap(Json& other) noexcept;

  // Implicit, so that `out["key"] = value` and {{"key", value}} read as JSON does.
  Json(std::nullptr_t) noexcept {}
  Json(const char* text);
  Json(std::string_view text);
  Json(std::string text);
  template <typename T, std::enable_if_t<std::is_arithmetic_v<T>, int> = 0>
  Json(T value) noexcept;
  template <typename T>
  Json(const std::vector<T>& items);
  // An object if every item is a pair that begins with a text, else an array.
  Json(std::initializer_list<Json> items);
  static Json array() { return array({}); }
  static Json array(std::initializer_list<Json> items);
  static Json object();

  Type type() const { return type_; }
  const char* type_name() const;
  bool is_null() const { return type() == Type::kNull; }
  bool is_boolean() const { return type() == Type::kBoolean; }
  bool is_number_integer() const { return type() == Type::kInteger || type() == Type::kUnsigned; }
  bool is_number_unsigned() const;              // a whole number that is not negative
  bool is_number_float() const { return type() == Type::kFloat; }
  bool is_number() const { return is_number_integer() || is_number_float(); }
  bool is_string() const { return type() == Type::kString; }
  bool is_array() const { return type() == Type::kArray; }
  bool is_object() const { return type() == Type::kObject; }

  // The value as a T: bool, a number, std::string, std::vector. Throws std::logic_error where it is none: ask first.
  template <typename T>
  T get() const;
  const std::string& string() const;
  // The member's value, or `fallback` where there is none.
  template <typename T>
  auto value(std::string_view key, const T& fallback) const;

  size_t size() const;                          // of an array or object; 0 of anything else
  bool empty() const { return size() == 0; }
  bool contains(std::string_view key) const { return member(key) != nullptr; }
  const_iterator find(std::string_view key) const;   // end() where it is not
  iterator find(std::string_view key);
  const_iterator begin() const;                 // over the values of an array or object
  const_iterator end() const;
  iterator begin();
  iterator end();
  const Members& items() const;                 // of an object; nothing of anything else

  // Null where it is not. What is changed is made an object, an array.
  const Json& operator[](std::string_view key) const;
  Json& operator[](std::string_view key);
  const Json& operator[](size_t index) const;
  Json& operator[](size_t index);
  const Json& front() const;                    // the first value of an array or object
  Json& back() { return (*this)[size() - 1]; }  // the last one of an array
  void push_back(Json value);
  void erase(std::string_view key);
  // For a reader: adds without looking whether the key is there; unite() then lets a key's last value stand in its first place.
  Json& add_member(std::string key);
  void unite();

  friend bool operator==(const Json& a, const Json& b);
  friend bool operator!=(const Json& a, const Json& b) { return !(a == b); }

 private:
  const Json* member(std::string_view key) const;
  Array& array_of_this();
  Members& members_of_this();
  [[noreturn]] void is_no(const char* wanted) const;

  Type type_ = Type::kNull;
  union {
    bool boolean_;
    int64_t integer_;
    uint64_t unsigned_ = 0;                     // only what int64_t does not hold
    double float_;
    std::string* string_;
    Array* array_;
    Members* members_;
  };
};

struct Json::Member {
  const std::string& key() const { return name; }
  const Json& value() const { return content; }

  std::string name;
  Json content;
};

template <bool kConstant>
class Json::Iterator {
 public:
  template <typename T>
  using Maybe = std::conditional_t<kConstant, const T, T>;

  Iterator() = default;
  explicit Iterator(Maybe<Json>* element) : element_(element) {}
  explicit Iterator(Maybe<Member>* member) : member_(member) {}

  Maybe<Json>& operator*() const { return member_ ? member_->content : *element_; }
  Maybe<Json>* operator->() const { return &**this; }
  const std::string& key() const { return member_->name; }
  Maybe<Json>& value() const { return **this; }
  Iterator& operator++() {
    member_ ? static_cast<void>(++member_) : static_cast<void>(++element_);
    return *this;
  }
  bool operator==(const Iterator& other) const { return element_ == other.element_ && member_ == other.member_; }
  bool operator!=(const Iterator& other) const { return !(*this == other); }

 private:
  Maybe<Json>* element_ = nullptr;
  Maybe<Member>* member_ = nullptr;
};

// `where` names the text in messages ("config.json"). Nesting deeper than 256 is refused: it is never honest input.
Result<Json> parse_json(std::string_view text, std::string_view where);

// Reads a whole file; a missing one is kNotFound. Files over 256 MiB are refused, and so are git-lfs's pointers.
Result<std::string> read_text_file(const std::string& path);
// Refuses the pointer that a clone without git-lfs has in a large file's place. `content` is the file or its beginning.
Status check_no_lfs_pointer(std::string_view content, const std::string& path);
Result<Json> read_json_file(const std::string& path);

// Typed look-ups: `fallback` when the key is absent or null, an error naming `key` when the type is another.
Result<int64_t> json_i64(const Json& object, const char* key, int64_t fallback);
Result<double> json_f64(const Json& object, const char* key, double fallback);
Result<bool> json_bool(const Json& object, const char* key, bool fallback);
Result<std::string> json_str(const Json& object, const char* key, std::string_view fallback);

// One line; bytes that are not UTF-8 become U+FFFD.
std::string to_text(const Json& value);
std::ostream& operator<<(std::ostream& out, const Json& value);

// ---- templates

template <typename T, std::enable_if_t<std::is_arithmetic_v<T>, int>>
Json::Json(T value) noexcept {
  if constexpr (std::is_same_v<T, bool>) {
    boolean_ = value;
    type_ = Type::kBoolean;
  } else if constexpr (std::is_floating_point_v<T>) {
    float_ = value;
    type_ = Type::kFloat;
  } else if (std::is_unsigned_v<T> && static_cast<uint64_t>(value) > static_cast<uint64_t>(INT64_MAX)) {
    unsigned_ = static_cast<uint64_t>(value);
    type_ = Type::kUnsigned;
  } else {
    integer_ = static_cast<int64_t>(value);
    type_ = Type::kInteger;
  }
}

template <typename T>
Json::Json(const std::vector<T>& items) {
  Array array;
  array.reserve(items.size());
  for (const T& item : items) array.emplace_back(item);
  array_of_this() = std::move(array);
}

namespace detail {
template <typename T>
struct IsVector : std::false_type {};
template <typename T>
struct IsVector<std::vector<T>> : std::true_type {};
}  // namespace detail

template <typename T>
T Json::get() const {
  if constexpr (std::is_same_v<T, Json>) {
    return *this;
  } else if constexpr (std::is_same_v<T, bool>) {
    if (is_boolean()) return boolean_;
    is_no("truth value");
  } else if constexpr (std::is_arithmetic_v<T>) {
    if (type_ == Type::kInteger) return static_cast<T>(integer_);
    if (type_ == Type::kUnsigned) return static_cast<T>(unsigned_);
    if (type_ == Type::kFloat) return static_cast<T>(float_);
    is_no("number");
  } else if constexpr (detail::IsVector<T>::value) {
    if (!is_array()) is_no("array");
    T out;
    out.reserve(size());
    for (const Json& item : *this) out.push_back(item.get<typename T::value_type>());
    return out;
  } else {
    static_assert(std::is_same_v<T, std::string>);
    return string();
  }
}

template <typename T>
auto Json::value(std::string_view key, const T& fallback) const {
  using Value = std::conditional_t<std::is_convertible_v<T, std::string_view> && !std::is_same_v<T, Json>, std::string, T>;
  const Json* found = member(key);
  return found ? found->get<Value>() : Value(fallback);
}

}  // namespace nbl
