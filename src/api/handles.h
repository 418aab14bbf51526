// The handles that cross the C API: a magic word, a busy flag, and a share of the object inside.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "engine/batch.h"
#include "engine/job.h"
#include "engine/model.h"
#include "engine/session.h"
#include "nibble.h"

namespace nbl::api {

// Tells a live handle of the right type from a released or foreign pointer, as far as memory that is still there can.
template <uint32_t kMagic>
struct Handle {
  static constexpr uint32_t magic_of_type = kMagic;
  uint32_t magic = kMagic;
  mutable std::atomic<bool> busy{false};
  ~Handle() { magic = 0; }
};

using OptionValue = std::variant<int64_t, double, std::string, std::vector<std::string>>;

}  // namespace nbl::api

struct nbl_error : nbl::api::Handle<0x6e624501> {
  nbl_status status = NBL_E_INTERNAL;
  std::string message;
  std::string detail;
};

struct nbl_config : nbl::api::Handle<0x6e624302> {
  // What was set; everything else has its default. Shared, because a copy of a variant that finds no memory destroys
  // what it has not made (libstdc++ 12).
  std::map<nbl_option, std::shared_ptr<const nbl::api::OptionValue>> values;
};

struct nbl_model : nbl::api::Handle<0x6e624d03> {
  std::shared_ptr<nbl::Model> model;
};

struct nbl_session : nbl::api::Handle<0x6e625304> {
  std::shared_ptr<nbl::Session> session;
};

struct nbl_batch : nbl::api::Handle<0x6e624205> {
  std::shared_ptr<nbl::SessionBatch> batch;
};

struct nbl_job : nbl::api::Handle<0x6e624a06> {
  std::shared_ptr<nbl::Job> job;
};
