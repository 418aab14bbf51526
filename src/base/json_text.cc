// Json from text, by nlohmann's parser, and to text.
#include "base/json.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>
#include <ostream>

#include "base/json_string.h"

namespace nbl {
namespace {

constexpr size_t kDeepest = 256;
constexpr int64_t kLargestTextFile = 256ll << 20;

// What the parser tells, as a Json.
class Builder final : public nlohmann::json_sax<nlohmann::json> {
 public:
  Json take() { return std::move(root_); }
  bool too_deep() const { return too_deep_; }
  const std::string& problem() const { return problem_; }

  bool null() override { return put(nullptr); }
  bool boolean(bool value) override { return put(value); }
  bool number_integer(number_integer_t value) override { return put(value); }
  bool number_unsigned(number_unsigned_t value) override { return put(value); }
  bool number_float(number_float_t value, const string_t&) override { return put(value); }
  bool string(string_t& value) override { return put(std::move(value)); }
  bool binary(binary_t&) override { return false; }
  bool key(string_t& value) override {
    key_ = std::move(value);
    return true;
  }
  bool start_object(size_t) override { return open(Json::object()); }
  bool start_array(size_t) override { return open(Json::array()); }
  bool end_object() override {
    open_.back()->unite();
    open_.pop_back();
    return true;
  }
  bool end_array() override {
    open_.pop_back();
    return true;
  }
  bool parse_error(size_t, const std::string&, const nlohmann::detail::exception& problem) override {
    // nlohmann's text starts with "[json.exception.parse_error.101] "; what follows names line and column.
    const char* text = std::strchr(problem.what(), ' ');
    problem_ = text ? text : problem.what();
    return false;
  }

 private:
  bool put(Json value) {
    place() = std::move(value);
    return true;
  }
  bool open(Json value) {
    if (open_.size() >= kDeepest) {
      too_deep_ = true;
      return false;
    }
    Json& at = place();
    at = std::move(value);
    open_.push_back(&at);
    return true;
  }
  Json& place() {
    if (open_.empty()) return root_;
    Json& parent = *open_.back();
    if (parent.is_object()) return parent.add_member(std::move(key_));
    parent.push_back(nullptr);
    return parent.back();
  }

  Json root_;
  std::vector<Json*> open_;  // objects and arrays; the elements of one move only while it is the last
  std::string key_, problem_;
  bool too_deep_ = false;
};

}  // namespace

Result<Json> parse_json(std::string_view text, std::string_view where) {
  Builder builder;
  if (nlohmann::json::sax_parse(text.begin(), text.end(), &builder)) return builder.take();
  const int length = static_cast<int>(where.size());
  if (builder.too_deep()) return error(Code::kFormat, "%.*s nests deeper than %zu levels", length, where.data(), kDeepest);
  return error(Code::kFormat, "%.*s is not valid JSON:%s", length, where.data(), builder.problem().c_str());
}

Result<std::string> read_text_file(const std::string& path) {
  // A pipe without a writer must not be waited for.
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(descriptor < 0 ? nullptr : ::fdopen(descriptor, "rb"), std::fclose);
  if (!file) {
    if (descriptor >= 0) ::close(descriptor);
    const Code code = errno == ENOENT || errno == ENOTDIR ? Code::kNotFound : Code::kIo;
    return error(code, "cannot open %s: %s", path.c_str(), std::strerror(errno)).with("file", path);
  }
  struct stat facts;
  if (fstat(fileno(file.get()), &facts) != 0 || !S_ISREG(facts.st_mode)) {
    return error(Code::kIo, "%s is not a regular file", path.c_str()).with("file", path);
  }
  if (facts.st_size > kLargestTextFile) {
    return error(Code::kFormat, "%s has %lld bytes, more than the %lld that a text file may have", path.c_str(),
                 static_cast<long long>(facts.st_size), static_cast<long long>(kLargestTextFile))
        .with("file", path);
  }
  std::string text(static_cast<size_t>(facts.st_size), '\0');
  if (std::fread(text.data(), 1, text.size(), file.get()) != text.size()) {
    return error(Code::kIo, "reading %s failed before its end", path.c_str()).with("file", path);
  }
  NBL_RETURN_IF_ERROR(check_no_lfs_pointer(text, path));
  return text;
}

Status check_no_lfs_pointer(std::string_view content, const std::string& path) {
  constexpr std::string_view kBeginning = "version https://git-lfs.github.com/spec/";
  if (content.substr(0, kBeginning.size()) != kBeginning) return {};
  return error(Code::kFormat, "%s is a pointer of git-lfs and not the file itself: run `git lfs pull` there, or fetch the file", path.c_str())
      .with("file", path);
}

Result<Json> read_json_file(const std::string& path) {
  NBL_ASSIGN_OR_RETURN(const std::string text, read_text_file(path));
  Result<Json> value = parse_json(text, path);
  if (!value.ok()) value.status().with("file", path);
  return value;
}

namespace {

// null and absent mean the same in every config.json.
const Json* member(const Json& object, const char* key) {
  if (!object.is_object()) return nullptr;
  const auto found = object.find(key);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

Status wrong_type(const char* key, const Json& found, const char* expected) {
  std::string shown = to_text(found);
  if (shown.size() > 60) shown = shown.substr(0, 57) + "...";
  return error(Code::kFormat, "\"%s\" is %s, expected %s", key, shown.c_str(), expected).with("key", key);
}

}  // namespace

Result<int64_t> json_i64(const Json& object, const char* key, int64_t fallback) {
  const Json* value = member(object, key);
  if (!value) return fallback;
  if (value->is_number_integer() && (!value->is_number_unsigned() || value->get<uint64_t>() <= INT64_MAX)) {
    return value->get<int64_t>();
  }
  // Some writers spell whole numbers as 4096.0.
  if (value->is_number_float()) {
    const double number = value->get<double>();
    if (number >= -9e15 && number <= 9e15 && number == static_cast<double>(static_cast<int64_t>(number))) {
      return static_cast<int64_t>(number);
    }
  }
  return wrong_type(key, *value, "a whole number");
}

Result<double> json_f64(const Json& object, const char* key, double fallback) {
  const Json* value = member(object, key);
  if (!value) return fallback;
  if (!value->is_number()) return wrong_type(key, *value, "a number");
  return value->get<double>();
}

Result<bool> json_bool(const Json& object, const char* key, bool fallback) {
  const Json* value = member(object, key);
  if (!value) return fallback;
  if (!value->is_boolean()) return wrong_type(key, *value, "true or false");
  return value->get<bool>();
}

Result<std::string> json_str(const Json& object, const char* key, std::string_view fallback) {
  const Json* value = member(object, key);
  if (!value) return std::string(fallback);
  if (!value->is_string()) return wrong_type(key, *value, "a string");
  return value->get<std::string>();
}

namespace {

// The shortest digits that read back as the same number; it stays a number with a fraction. JSON has no infinity.
void write_number(double value, std::string& out) {
  if (!std::isfinite(value)) {
    out += "null";
    return;
  }
  char digits[40];
  const auto end = std::to_chars(digits, digits + sizeof digits, value).ptr;
  const std::string_view text(digits, static_cast<size_t>(end - digits));
  out += text;
  if (text.find_first_of(".e") == std::string_view::npos) out += ".0";
}

void write(const Json& value, std::string& out) {
  switch (value.type()) {
    case Json::Type::kNull: out += "null"; return;
    case Json::Type::kBoolean: out += value.get<bool>() ? "true" : "false"; return;
    case Json::Type::kInteger: out += std::to_string(value.get<int64_t>()); return;
    case Json::Type::kUnsigned: out += std::to_string(value.get<uint64_t>()); return;
    case Json::Type::kFloat: write_number(value.get<double>(), out); return;
    case Json::Type::kString: append_json_string(out, value.string()); return;
    case Json::Type::kArray: {
      const char* before = "[";
      for (const Json& item : value) {
        out += before;
        write(item, out);
        before = ",";
      }
      out += value.empty() ? "[]" : "]";
      return;
    }
    case Json::Type::kObject: {
      const char* before = "{";
      for (const auto& [key, content] : value.items()) {
        out += before;
        append_json_string(out, key);
        out += ':';
        write(content, out);
        before = ",";
      }
      out += value.empty() ? "{}" : "}";
      return;
    }
  }
}

}  // namespace

std::string to_text(const Json& value) {
  std::string out;
  write(value, out);
  return out;
}

std::ostream& operator<<(std::ostream& out, const Json& value) { return out << to_text(value); }

}  // namespace nbl
