#include "model/rope_scaling.h"

#include <algorithm>
#include <cmath>

namespace nbl {
namespace {

constexpr double kPi = 3.14159265358979323846;

// Beyond these no honest model goes, and float32 frequencies stay finite and above 0 within.
constexpr double kLeast = 1e-6, kMost = 1e15;

Result<double> positive(const Json& scaling, const char* key, double fallback) {
  Result<double> value = json_f64(scaling, key, fallback);
  if (!value.ok()) return value.status().in("config.json");
  if (!(*value >= kLeast && *value <= kMost)) {
    return error(Code::kFormat, "config.json: the rotary embedding's \"%s\" is %g, expected a number from %g to %g", key, *value, kLeast,
                 kMost)
        .with("key", key);
  }
  return value;
}

// Kinds that cannot do without it name the factor that is missing.
Result<double> required_factor(const Json& scaling, const std::string& type) {
  if (!scaling.contains("factor") || scaling["factor"].is_null()) {
    return error(Code::kFormat, "config.json: the rope scaling \"%s\" has no \"factor\"", type.c_str()).with("key", "factor");
  }
  return positive(scaling, "factor", 1);
}

void scale_llama3(double factor, double low, double high, double original, Rope& rope) {
  const double low_wavelength = original / low, high_wavelength = original / high;
  for (float& frequency : rope.inv_freq) {
    const double wavelength = 2 * kPi / frequency;
    if (wavelength < high_wavelength) continue;
    if (wavelength > low_wavelength) {
      frequency = static_cast<float>(frequency / factor);
      continue;
    }
    const double smooth = (original / wavelength - low) / (high - low);
    frequency = static_cast<float>((1 - smooth) * frequency / factor + smooth * frequency);
  }
}

double yarn_magnitude(double scale, double mscale) { return scale <= 1 ? 1.0 : 0.1 * mscale * std::log(scale) + 1.0; }

Status scale_yarn(const Json& scaling, double factor, double theta, double original, Rope& rope) {
  if (!(theta > 1))
    return error(Code::kFormat, "config.json: \"rope_theta\" is %g, expected more than 1 with yarn", theta).with("key", "rope_theta");
  NBL_ASSIGN_OR_RETURN(const double beta_fast, positive(scaling, "beta_fast", 32));
  NBL_ASSIGN_OR_RETURN(const double beta_slow, positive(scaling, "beta_slow", 1));
  NBL_ASSIGN_OR_RETURN(const bool truncate, json_bool(scaling, "truncate", true));
  NBL_ASSIGN_OR_RETURN(const double mscale, json_f64(scaling, "mscale", 0));
  NBL_ASSIGN_OR_RETURN(const double mscale_all_dim, json_f64(scaling, "mscale_all_dim", 0));
  const double own = mscale != 0 && mscale_all_dim != 0 ? yarn_magnitude(factor, mscale) / yarn_magnitude(factor, mscale_all_dim)
                                                        : yarn_magnitude(factor, 1);
  NBL_ASSIGN_OR_RETURN(const double attention_factor, positive(scaling, "attention_factor", own));
  rope.attention_factor = static_cast<float>(attention_factor);
  const double dim = static_cast<double>(rope.rotary_dim);
  const auto correction_dim = [&](double rotations) { return dim * std::log(original / (rotations * 2 * kPi)) / (2 * std::log(theta)); };
  double low = correction_dim(beta_fast), high = correction_dim(beta_slow);
  if (truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, dim - 1);
  if (low == high) high += 0.001;  // no division by zero
  for (size_t i = 0; i < rope.inv_freq.size(); ++i) {
    const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    const double extrapolated = rope.inv_freq[i], interpolated = extrapolated / factor;
    rope.inv_freq[i] = static_cast<float>(interpolated * ramp + extrapolated * (1 - ramp));
  }
  return {};
}

// Every frequency is divided by a factor of its own: one list for sequences within the trained length, one for longer ones.
Status scale_longrope(const Json& config, const Json& scaling, const DecoderConfig& shape, Rope& rope) {
  const double longest = static_cast<double>(shape.max_position_embeddings);
  NBL_ASSIGN_OR_RETURN(const double of_scaling, positive(scaling, "original_max_position_embeddings", longest));
  NBL_ASSIGN_OR_RETURN(const double original, positive(config, "original_max_position_embeddings", of_scaling));
  // transformers 4, which has the trained length beside rope_scaling, does not look at a factor in there; 5 does.
  NBL_ASSIGN_OR_RETURN(const double stated, positive(scaling, "factor", longest / original));
  const double factor = config.contains("original_max_position_embeddings") ? longest / original : stated;
  const double own = factor <= 1 ? 1.0 : std::sqrt(1 + std::log(factor) / std::log(original));
  NBL_ASSIGN_OR_RETURN(const double attention_factor, positive(scaling, "attention_factor", own));
  rope.attention_factor = static_cast<float>(attention_factor);
  rope.dynamic = true;
  rope.original_length = static_cast<int64_t>(original);
  rope.long_inv_freq = rope.inv_freq;
  const struct {
    const char* key;
    std::vector<float>& frequencies;
  } lists[] = {{"short_factor", rope.inv_freq}, {"long_factor", rope.long_inv_freq}};
  for (const auto& list : lists) {
    const auto found = scaling.find(list.key);
    const size_t count = list.frequencies.size();
    if (found == scaling.end() || !found->is_array() || found->size() != count) {
      return error(Code::kFormat, "config.json: the rotary embedding's \"%s\" is %s, expected a list of %zu numbers", list.key,
                   found == scaling.end() ? "missing" : found->is_array() ? ("a list of " + std::to_string(found->size())).c_str()
                                                                          : to_text(*found).c_str(),
                   count)
          .with("key", list.key);
    }
    for (size_t i = 0; i < count; ++i) {
      NBL_ASSIGN_OR_RETURN(const double divisor, positive(Json{{list.key, (*found)[i]}}, list.key, 1));
      list.frequencies[i] = static_cast<float>(list.frequencies[i] / divisor);
    }
  }
  return {};
}

}  // namespace

Result<Rope> read_rope(const Json& config, const DecoderConfig& shape, double partial_rotary_factor) {
  // transformers 5 puts everything into rope_parameters; 4 has rope_theta beside rope_scaling.
  Json scaling = Json::object();
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    const auto found = config.find(key);
    if (found == config.end() || found->is_null()) continue;
    if (!found->is_object()) {
      return error(Code::kFormat, "config.json: \"%s\" is %s, expected an object or null", key, to_text(*found).c_str()).with("key", key);
    }
    if (found->contains("full_attention") || found->contains("sliding_attention")) {
      return error(Code::kUnsupported, "config.json: \"%s\" gives layers of different kinds a rotation of their own, which is not known here", key)
          .with("key", key);
    }
    if (!found->empty()) scaling = *found;
  }
  NBL_ASSIGN_OR_RETURN(const double outer_theta, positive(config, "rope_theta", 10000));
  NBL_ASSIGN_OR_RETURN(const double theta, positive(scaling, "rope_theta", outer_theta));
  NBL_ASSIGN_OR_RETURN(const double outer_part, positive(config, "partial_rotary_factor", partial_rotary_factor));
  NBL_ASSIGN_OR_RETURN(const double part, positive(scaling, "partial_rotary_factor", outer_part));
  Rope rope;
  rope.rotary_dim = static_cast<int64_t>(static_cast<double>(shape.head_dim) * part);
  if (rope.rotary_dim < 2 || rope.rotary_dim > shape.head_dim || rope.rotary_dim % 2 != 0) {
    return error(Code::kFormat, "config.json: a \"partial_rotary_factor\" of %g turns %lld of a head's %lld values, expected an even number of them",
                 part, static_cast<long long>(rope.rotary_dim), static_cast<long long>(shape.head_dim))
        .with("key", "partial_rotary_factor");
  }
  rope.theta = theta;
  for (int64_t i = 0; i < rope.rotary_dim / 2; ++i) {
    rope.inv_freq.push_back(static_cast<float>(1.0 / std::pow(theta, 2.0 * static_cast<double>(i) / static_cast<double>(rope.rotary_dim))));
  }
  NBL_ASSIGN_OR_RETURN(const std::string old_name, json_str(scaling, "type", "default"));
  NBL_ASSIGN_OR_RETURN(const std::string type, json_str(scaling, "rope_type", old_name));
  if (type == "default") return rope;
  const double longest = static_cast<double>(shape.max_position_embeddings);
  NBL_ASSIGN_OR_RETURN(const double original, positive(scaling, "original_max_position_embeddings", longest));
  if (type == "linear") {
    NBL_ASSIGN_OR_RETURN(const double factor, required_factor(scaling, type));
    for (float& frequency : rope.inv_freq) frequency = static_cast<float>(frequency / factor);
  } else if (type == "dynamic") {
    NBL_ASSIGN_OR_RETURN(rope.factor, required_factor(scaling, type));
    rope.dynamic = true;
    rope.original_length = shape.max_position_embeddings;  // not `original`: transformers does not look at it here
  } else if (type == "llama3") {
    NBL_ASSIGN_OR_RETURN(const double factor, required_factor(scaling, type));
    NBL_ASSIGN_OR_RETURN(const double low, positive(scaling, "low_freq_factor", 1));
    NBL_ASSIGN_OR_RETURN(const double high, positive(scaling, "high_freq_factor", 4));
    if (!(high > low)) {
      return error(Code::kFormat, "config.json: \"high_freq_factor\" is %g, expected more than \"low_freq_factor\", which is %g", high, low)
          .with("key", "high_freq_factor");
    }
    scale_llama3(factor, low, high, original, rope);
  } else if (type == "longrope" || type == "su" || (type == "yarn" && scaling.contains("long_factor"))) {  // by its older names too
    NBL_RETURN_IF_ERROR(scale_longrope(config, scaling, shape, rope));
  } else if (type == "yarn") {
    NBL_ASSIGN_OR_RETURN(const double factor, positive(scaling, "factor", longest / original));
    NBL_RETURN_IF_ERROR(scale_yarn(scaling, factor, theta, original, rope));
  } else {
    return error(Code::kUnsupported,
                 "config.json: the rope scaling \"%s\" is not known here; known are default, linear, dynamic, llama3, yarn, longrope", type.c_str())
        .with("key", "rope_scaling");
  }
  return rope;
}

}  // namespace nbl
