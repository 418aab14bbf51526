// nbl_config_* and nbl_option_*.
#include "api/guard.h"
#include "api/impl.gen.h"
#include "api/options.h"

namespace nbl::impl {

Status config_create(nbl_config** out) {
  *out = new nbl_config();
  return {};
}

void config_release(nbl_config* c) noexcept { delete c; }

Status config_set_i64(nbl_config* c, nbl_option option, int64_t value) { return api::set_value(*c, option, value); }
Status config_set_f64(nbl_config* c, nbl_option option, double value) { return api::set_value(*c, option, value); }
Status config_set_str(nbl_config* c, nbl_option option, std::string_view value) { return api::set_value(*c, option, std::string(value)); }
Status config_add_str(nbl_config* c, nbl_option option, std::string_view value) { return api::add_value(*c, option, value); }

Status config_merge_json(nbl_config* c, std::string_view json) {
  NBL_ASSIGN_OR_RETURN(const Json object, parse_json(json, "the text of options"));
  return api::merge_json(*c, object);
}

Status config_to_json(const nbl_config* c, std::string& out) {
  out = to_text(api::to_json(*c));
  return {};
}

int32_t option_count() noexcept { return api::kOptionCount; }

nbl_option option_at(int32_t index) noexcept { return index >= 0 && index < api::kOptionCount ? api::kOptions[index].id : 0; }

Status option_describe(nbl_option option, std::string& out) {
  NBL_ASSIGN_OR_RETURN(const api::OptionRow* row, api::require_option(option));
  out = to_text(api::describe_option(*row));
  return {};
}

}  // namespace nbl::impl
