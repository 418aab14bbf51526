#include "text/jinja/runtime.h"

#include <cstdarg>
#include <cstdio>

namespace nbl::jinja {
namespace {

struct Text : Object {
  std::string bytes;
};

}  // namespace

Runtime::~Runtime() {
  while (objects_) {
    Object* next = objects_->next_on_heap;
    delete objects_;
    objects_ = next;
  }
}

Value Runtime::text(std::string text, bool markup) {
  if (text.empty()) return Value::borrowed("", markup);
  Text* object = make<Text>();
  object->bytes = std::move(text);
  bytes_ += object->bytes.capacity();
  work_on_bytes(object->bytes.size());
  return Value::borrowed(object->bytes, markup);
}

Value Runtime::sequence(Kind kind, std::vector<Value> items) {
  List* object = make<List>();
  object->items = std::move(items);
  bytes_ += object->items.capacity() * sizeof(Value);
  work_on_items(object->items.size());
  return Value::object(kind, object);
}

Value Runtime::iterator(std::vector<Value> items, const char* type_name) {
  Iterator* object = make<Iterator>();
  object->items = std::move(items);
  object->type_name = type_name;
  bytes_ += object->items.capacity() * sizeof(Value);
  work_on_items(object->items.size());
  return Value::object(Kind::kIterator, object);
}

Value Runtime::dict(Dict** made) {
  *made = make<Dict>();
  return Value::object(Kind::kDict, *made);
}

Status Runtime::afford(uint64_t bytes) const {
  return bytes > limits_.bytes || bytes_ + bytes > limits_.bytes ? exhausted() : Status();
}

Status Runtime::exhausted() const {
  if (work_ > limits_.work) {
    return failure("the template ran past the %llu steps that this request may take",
                   static_cast<unsigned long long>(limits_.work));
  }
  return failure("the template would use more than the %llu MiB that this request may take",
                 static_cast<unsigned long long>(limits_.bytes >> 20));
}

Status Deeper::check() const {
  if (runtime_.depth_ <= runtime_.limits_.depth) return Status();
  return failure("the template recurses deeper than %d levels", runtime_.limits_.depth);
}

Status failure(const char* format, ...) {
  char text[512];
  va_list arguments;
  va_start(arguments, format);
  const int length = std::vsnprintf(text, sizeof(text), format, arguments);
  va_end(arguments);
  if (length < static_cast<int>(sizeof(text))) return Status(Code::kTemplate, text);
  std::string whole(static_cast<size_t>(length) + 1, '\0');
  va_start(arguments, format);
  std::vsnprintf(whole.data(), whole.size(), format, arguments);
  va_end(arguments);
  whole.pop_back();
  return Status(Code::kTemplate, std::move(whole));
}

Status undefined_failure(const Value& value) { return Status(Code::kTemplate, undefined_message(value)); }

}  // namespace nbl::jinja
