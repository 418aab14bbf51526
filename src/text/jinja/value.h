// Value: what a template computes with. It means what the Python object of the same kind means.
//
// A Value is 32 trivially copyable bytes. Text and objects are borrowed: from the template, from the request, or from
// the Runtime's heap, all of which outlive the rendering; so slicing or stripping a message copies nothing, and a
// namespace that holds itself leaks nothing.
//
// Integers are 128 bits wide. Python's have no end; an operation whose result does not fit is an error, never a wrap.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace nbl::jinja {

__extension__ using Int = __int128;

enum class Kind : uint8_t {
  kUndefined,
  kNone,
  kBool,
  kInt,
  kFloat,
  kString,
  kBytes,
  kList,
  kTuple,
  kDict,
  kView,  // dict.keys(), dict.values(), dict.items()
  kRange,
  kIterator,  // a generator: consumed once, has no length, is always true
  kNamespace,
  kCycler,
  kJoiner,
  kLoop,
  kFunction,  // a global: range, namespace, raise_exception, ...
  kMethod,    // a method with the object it belongs to
  kMacro,
};

// Why a value is undefined: decides the message when something is done with it.
enum class Absence : uint8_t { kName, kAttribute, kElement, kParameter, kUnsafe, kSentence };

// Everything on the Runtime's heap. The heap frees its objects all at once, so no destructor recurses.
struct Object {
  virtual ~Object() = default;
  Object* next_on_heap = nullptr;
};

struct List;
struct Dict;
struct View;
struct Range;
struct Iterator;
struct Namespace;
struct Cycler;
struct Joiner;
struct Method;
struct NativeEntry;
struct Macro;
class Loop;

class Value {
 public:
  Value() : text_{nullptr, 0} {}  // undefined

  static Value none() { return Value(Kind::kNone); }
  static Value boolean(bool b) { Value v(Kind::kBool); v.integer_ = b; return v; }
  static Value integer(Int i) { Value v(Kind::kInt); v.integer_ = i; return v; }
  static Value real(double d) { Value v(Kind::kFloat); v.real_ = d; return v; }
  // Borrows `text`: for what lives as long as the rendering.
  static Value borrowed(std::string_view text, bool markup = false);
  static Value bytes(std::string_view text);
  // `owner` is the kind of the value that lacks `name`; kSentence and kUnsafe carry a whole sentence in `name`.
  static Value undefined(Absence why, std::string_view name, Kind owner = Kind::kUndefined);
  static Value object(Kind kind, const void* object) { Value v(kind); v.object_ = object; return v; }

  Kind kind() const { return kind_; }
  bool is(Kind kind) const { return kind_ == kind; }
  bool is_undefined() const { return kind_ == Kind::kUndefined; }
  bool is_none() const { return kind_ == Kind::kNone; }
  bool is_string() const { return kind_ == Kind::kString; }
  bool is_integral() const { return kind_ == Kind::kInt || kind_ == Kind::kBool; }  // bool is an int in Python
  bool is_number() const { return is_integral() || kind_ == Kind::kFloat; }
  bool is_sequence() const { return kind_ == Kind::kList || kind_ == Kind::kTuple; }
  bool is_callable() const;

  bool as_bool() const { return integer_ != 0; }
  Int as_int() const { return integer_; }       // of kInt and kBool
  double as_float() const { return real_; }     // of kFloat
  double as_number() const { return kind_ == Kind::kFloat ? real_ : static_cast<double>(integer_); }
  std::string_view text() const { return {text_.data, text_.size}; }  // of kString and kBytes
  bool markup() const { return detail_ != 0; }  // of kString: already escaped for HTML
  Absence absence() const { return static_cast<Absence>(detail_); }
  Kind owner() const { return owner_; }

  const List& list() const { return *static_cast<const List*>(object_); }  // of kList and kTuple
  const Dict& dict() const { return *static_cast<const Dict*>(object_); }
  const View& view() const { return *static_cast<const View*>(object_); }
  const Range& range() const { return *static_cast<const Range*>(object_); }
  const Method& method() const { return *static_cast<const Method*>(object_); }
  const NativeEntry& function() const { return *static_cast<const NativeEntry*>(object_); }
  const Macro& macro() const { return *static_cast<const Macro*>(object_); }
  // The kinds that change while a template runs.
  Iterator& iterator() const { return *mutable_object<Iterator>(); }
  Namespace& name_space() const { return *mutable_object<Namespace>(); }
  Cycler& cycler() const { return *mutable_object<Cycler>(); }
  Joiner& joiner() const { return *mutable_object<Joiner>(); }
  Loop& loop() const { return *mutable_object<Loop>(); }
  const void* identity() const { return object_; }

 private:
  explicit Value(Kind kind) : kind_(kind), text_{nullptr, 0} {}
  template <typename T>
  T* mutable_object() const { return static_cast<T*>(const_cast<void*>(object_)); }

  Kind kind_ = Kind::kUndefined;
  uint8_t detail_ = 0;
  Kind owner_ = Kind::kUndefined;
  struct Text {
    const char* data;
    size_t size;
  };
  union {
    Int integer_;
    double real_;
    Text text_;
    const void* object_;
  };
};

struct List : Object {
  std::vector<Value> items;
  bool group = false;  // made by groupby: a tuple whose items are also called `grouper` and `list`
};

// Keeps the order of insertion. Small ones are searched in line, larger ones through a table of hashes whose seed
// differs from run to run.
struct Dict : Object {
  std::vector<std::pair<Value, Value>> entries;

  const Value* find(const Value& key) const;
  const Value* find(std::string_view key) const { return find(Value::borrowed(key)); }
  // `key` must be hashable: ask hashable() before.
  void set(const Value& key, const Value& value);

 private:
  int64_t slot_of(const Value& key) const;
  void rebuild_index();
  std::vector<uint32_t> index_;  // entry + 1, 0 for an empty slot; a power of two long, or empty when small
};

struct View : Object {
  enum Part { kKeys, kValues, kItems };
  const Dict* dict = nullptr;
  Part part = kKeys;
};

struct Range : Object {
  Int start = 0, stop = 0, step = 1;
  int64_t length() const;
  Int at(int64_t i) const { return start + step * i; }
};

struct Iterator : Object {
  std::vector<Value> items;
  size_t position = 0;
  const char* type_name = "generator";
};

struct Namespace : Object {
  Dict attributes;
};

struct Cycler : Object {
  std::vector<Value> items;
  size_t position = 0;
};

struct Joiner : Object {
  Value separator;
  bool used = false;
};

bool truth(const Value& value);
// Python's name of the type, as its messages spell it: "str", "NoneType", ...
const char* type_name(Kind kind);
const char* type_name(const Value& value);
// Equality of dictionary keys; 1, 1.0 and True are one key.
bool same_key(const Value& a, const Value& b);
bool hashable(const Value& value);
// What the message of an UndefinedError says about `value`.
std::string undefined_message(const Value& value);

}  // namespace nbl::jinja
