// nbl_batch_*.
#include "engine/batch.h"

#include "api/guard.h"
#include "api/impl.gen.h"
#include "api/options.h"

namespace nbl::impl {

Status batch_create(nbl_model* m, const nbl_config* c, nbl_batch** out) {
  NBL_ASSIGN_OR_RETURN(const BatchOptions options, api::batch_options(c));
  auto handle = std::make_unique<nbl_batch>();
  NBL_ASSIGN_OR_RETURN(handle->batch, SessionBatch::create(m->model, options));
  *out = handle.release();
  return {};
}

void batch_release(nbl_batch* b) noexcept { delete b; }

Status batch_add(nbl_batch* b, nbl_session* s) { return b->batch->add(s->session); }
Status batch_remove(nbl_batch* b, nbl_session* s) { return b->batch->remove(*s->session); }
Status batch_step(nbl_batch* b, int64_t* active) { return b->batch->step(active); }

}  // namespace nbl::impl
