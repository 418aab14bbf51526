// nbl_version, nbl_build_info, errors, the log.
#include <cstdlib>

#include "api/guard.h"
#include "api/impl.gen.h"
#include "api/options.h"
#include "base/json.h"
#include "base/log.h"
#include "kernels/backend.h"

#define NBL_TEXT_(x) #x
#define NBL_TEXT(x) NBL_TEXT_(x)

namespace nbl::impl {

const char* version() noexcept { return NBL_TEXT(NBL_VERSION_MAJOR) "." NBL_TEXT(NBL_VERSION_MINOR) "." NBL_TEXT(NBL_VERSION_PATCH); }

uint32_t abi_version() noexcept { return NBL_ABI_VERSION; }

Status abi_check(uint32_t built_against) {
  const uint32_t major = built_against >> 16, minor = built_against & 0xffff;
  if (major == NBL_VERSION_MAJOR && minor <= NBL_VERSION_MINOR) return {};
  return error(Code::kAbi,
               "this program was built against nibble %u.%u, the library that it found is %s; install nibble %u.%u or newer of the same "
               "major version",
               major, minor, version(), major, minor)
      .with("built_against", std::to_string(major) + "." + std::to_string(minor))
      .with("library", version());
}

Status build_info(std::string& out) {
  Json info;
  info["version"] = version();
  info["api_hash"] = NBL_API_HASH;
  info["compiler"] = __VERSION__;
  info["cpu_isas"] = cpu_isas();
  NBL_ASSIGN_OR_RETURN(info["cuda"], parse_json(cuda_build_info(), "CUDA"));
#ifdef NBL_HAVE_SENTENCEPIECE
  info["sentencepiece"] = true;
#else
  info["sentencepiece"] = false;
#endif
  info["backends"] = {"ref", "cpu", "cuda"};
  out = to_text(info);
  return {};
}

const char* status_name(nbl_status status) noexcept { return api::name_of_status(status); }

void free(void* memory) noexcept { std::free(memory); }

nbl_status error_status(const nbl_error* e) noexcept { return e ? e->status : NBL_OK; }

namespace {

const char* lend(const nbl_error* e, const std::string nbl_error::*text, size_t* length) {
  if (length) *length = e ? (e->*text).size() : 0;
  return e ? (e->*text).c_str() : "";
}

}  // namespace

const char* error_message(const nbl_error* e, size_t* len) noexcept { return lend(e, &nbl_error::message, len); }
const char* error_detail(const nbl_error* e, size_t* len) noexcept { return lend(e, &nbl_error::detail, len); }
void error_release(nbl_error* e) noexcept { api::release_error(e); }

void log_level(int32_t level) noexcept { set_log_level(level); }

Status log_next(int32_t* level, char* buf, size_t buf_capacity, size_t* buf_len, int32_t timeout_ms) {
  std::string text;
  if (!log_peek(timeout_ms, level, &text)) return Status(Code::kPending, "no line came");
  NBL_RETURN_IF_ERROR(api::fill_buffer(text, buf, buf_capacity, buf_len));
  log_take(text);
  return {};
}

void log_callback(nbl_log_fn fn, void* user) noexcept { set_log_callback(fn, user); }

}  // namespace nbl::impl
