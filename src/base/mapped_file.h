// A whole file mapped read-only. Pages are read when they are touched.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "base/status.h"

namespace nbl {

class MappedFile {
 public:
  static Result<std::shared_ptr<const MappedFile>> open(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const uint8_t* data() const { return data_; }
  int64_t size() const { return size_; }
  const std::string& path() const { return path_; }
  // Tells the system that the pages of this range need not stay in memory; they are read again when touched.
  void release(const uint8_t* begin, int64_t bytes) const;

 private:
  MappedFile() = default;
  std::string path_;
  const uint8_t* data_ = nullptr;
  int64_t size_ = 0;
};

}  // namespace nbl
