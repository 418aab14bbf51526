#include "base/json.h"

#include <sys/stat.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

namespace nbl {
namespace {

constexpr int kDeepest = 256;
constexpr int64_t kLargestTextFile = 256ll << 20;

}  // namespace

Result<Json> parse_json(std::string_view text, std::string_view where) {
  bool too_deep = false;
  const auto watch_depth = [&](int depth, Json::parse_event_t, Json&) {
    too_deep = too_deep || depth > kDeepest;
    return !too_deep;
  };
  try {
    Json value = Json::parse(text.begin(), text.end(), watch_depth);
    if (too_deep) {
      return error(Code::kFormat, "%.*s nests deeper than %d levels", static_cast<int>(where.size()), where.data(), kDeepest);
    }
    return value;
  } catch (const Json::exception& problem) {
    // nlohmann's text starts with "[json.exception.parse_error.101] "; what follows names line and column.
    const char* text_of = std::strchr(problem.what(), ' ');
    return error(Code::kFormat, "%.*s is not valid JSON:%s", static_cast<int>(where.size()), where.data(),
                 text_of ? text_of : problem.what());
  }
}

Result<std::string> read_text_file(const std::string& path) {
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"), std::fclose);
  if (!file) {
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
  return text;
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

std::string to_text(const Json& value, int indent) {
  return value.dump(indent, ' ', false, Json::error_handler_t::replace);
}

}  // namespace nbl
