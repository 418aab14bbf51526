// What a program does with a GPU, by the public API: public_path DIR... checks for each checkpoint that the GPU answers as
// the CPU does, that a model moves both ways and gives its memory back, that `estimate` tells what is then taken, that a load
// takes little more than the weights meanwhile, and that every refusal is a status with a way out after which the same process
// goes on. DIR:nf4 quantizes while loading, DIR:nf4+ doubly. A name with "7b" is of a large model: it stays on the GPU.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include <nlohmann/json.hpp>

#include "client.h"

namespace {

using Json = nlohmann::ordered_json;

int checks = 0, failures = 0;

void check(bool fine, const std::string& what) {
  ++checks;
  if (fine) return;
  ++failures;
  std::printf("not true: %s\n", what.c_str());
}

int64_t free_bytes(int32_t device = 0) {
  return client::number_of(nbl_device_i64, device, static_cast<nbl_prop>(NBL_PROP_DEVICE_FREE_BYTES));
}

// The least memory that was free while this lived, looked at all the time.
class LeastFree {
 public:
  LeastFree() : least_(free_bytes()), thread_([this] {
    while (!stop_) {
      least_ = std::min(least_, free_bytes());
      std::this_thread::sleep_for(std::chrono::microseconds(500));
    }
  }) {}
  ~LeastFree() { stop(); }
  int64_t stop() {
    stop_ = true;
    if (thread_.joinable()) thread_.join();
    return least_;
  }

 private:
  std::atomic<bool> stop_{false};
  int64_t least_;
  std::thread thread_;
};

// A directory, and what its float matrices become while they are loaded.
struct Checkpoint {
  std::string directory, load_quant;
  explicit Checkpoint(const std::string& argument) {
    const size_t colon = argument.rfind(':');
    directory = argument.substr(0, colon);
    if (colon != std::string::npos) load_quant = argument.substr(colon + 1);
  }
  std::string name() const { return directory.substr(directory.rfind('/') + 1) + (load_quant.empty() ? "" : " as ") + load_quant; }
  client::Config config(const std::string& device) const {
    client::Config config = client::make_config();
    client::set(config, NBL_OPT_DEVICE, device);
    if (load_quant.empty()) return config;
    const bool twice = load_quant.back() == '+';
    client::set(config, NBL_OPT_LOAD_QUANT, load_quant.substr(0, load_quant.size() - twice));
    client::set(config, NBL_OPT_DOUBLE_QUANT, int64_t{twice});
    return config;
  }
};

client::Model load(const Checkpoint& checkpoint, const std::string& device) {
  return client::make<client::Model>(nbl_model_load, checkpoint.directory.data(), checkpoint.directory.size(),
                                     checkpoint.config(device).get());
}

Json describe(const client::Model& model) {
  return Json::parse(client::text_of(nbl_model_describe, static_cast<const nbl_model*>(model.get())));
}

// Greedy ids after a prompt of ids.
std::vector<nbl_token> generate(const client::Model& model, int64_t context) {
  const client::Config config = client::make_config();
  client::set(config, NBL_OPT_CONTEXT, context);
  client::set(config, NBL_OPT_TEMPERATURE, 0.0);
  client::set(config, NBL_OPT_IGNORE_EOS, int64_t{1});
  const auto session = client::make<client::Session>(nbl_session_create, model.get(), config.get());
  const nbl_token prompt[] = {1, 5, 9, 17, 33, 65, 129, 2};
  client::call(nbl_session_append, session.get(), prompt, std::size(prompt));
  client::call(nbl_session_begin, session.get(), int64_t{24});
  std::vector<nbl_token> ids;
  nbl_token id = 0;
  std::string text;
  while (client::next(session.get(), &id, &text)) ids.push_back(id);
  return ids;
}

// The status of what must not work, and whether its message has every one of `parts`.
void refused(const std::string& what, nbl_status status, const std::vector<std::string>& parts, const std::function<void()>& action) {
  try {
    action();
    check(false, what + " was let through");
  } catch (const client::Error& error) {
    check(error.status() == status, what + " is " + nbl_status_name(error.status()) + ": " + error.what());
    for (const std::string& part : parts) {
      check((error.what() + error.detail()).find(part) != std::string::npos,
            what + ": \"" + part + "\" is not in: " + error.what() + " " + error.detail());
    }
    std::printf("  %s: %s\n", what.c_str(), error.what());
  }
}

void move_both_ways(const Checkpoint& checkpoint) {
  const std::string directory = checkpoint.name();
  client::Model model = load(checkpoint, "cpu");
  const std::vector<nbl_token> on_cpu = generate(model, 64);
  const std::vector<nbl_token> direct = generate(load(checkpoint, "cuda:0"), 64);
  const int64_t before = free_bytes();
  client::call(nbl_model_move, model.get(), int32_t{0});
  check(describe(model)["backend"] == "cuda:0", directory + ": moved to the GPU");
  check(generate(model, 64) == direct, directory + ": moved to the GPU it says the same as loaded there");
  client::call(nbl_model_move, model.get(), int32_t{NBL_DEVICE_CPU});
  check(describe(model)["backend"] == "cpu", directory + ": moved back");
  check(generate(model, 64) == on_cpu, directory + ": moved back it says the same as before");
  check(free_bytes() >= before - (2 << 20), directory + ": moving back gave the GPU's memory back");
  size_t same = 0;
  while (same < on_cpu.size() && same < direct.size() && on_cpu[same] == direct[same]) ++same;
  std::printf("%-40s GPU and CPU agree on %zu of %zu greedy ids\n", directory.c_str(), same, on_cpu.size());
}

// Every device by its number: the same ids, each device's memory its own, models that move from one to another, threads that work
// on several in turns.
void several_devices(const Checkpoint& checkpoint) {
  const int32_t count = nbl_device_count();
  if (count < 2) {
    std::printf("SKIPPED: several devices, this machine has one\n");
    return;
  }
  const auto name = [](int32_t device) { return "cuda:" + std::to_string(device); };
  std::vector<client::Model> models;
  for (int32_t device = 0; device < count; ++device) {
    generate(load(checkpoint, name(device)), 64);  // the driver's own memory is taken
    std::vector<int64_t> before;
    for (int32_t other = 0; other < count; ++other) before.push_back(free_bytes(other));
    models.push_back(load(checkpoint, name(device)));
    check(describe(models.back())["backend"] == name(device), "the model is on " + name(device));
    for (int32_t other = 0; other < count; ++other) {
      check((free_bytes(other) < before[static_cast<size_t>(other)]) == (other == device),
            "loading on " + name(device) + " takes memory there, " + name(other) + " looked at");
    }
  }
  const std::vector<nbl_token> expected = generate(models[0], 64);
  for (const client::Model& model : models) check(generate(model, 64) == expected, "every device says the same");
  std::vector<std::thread> threads;
  std::atomic<int> others{0};
  for (int32_t first = 0; first < 2 * count; ++first) {
    threads.emplace_back([&, first] {
      try {
        for (int32_t i = 0; i < 4 * count; ++i) others += generate(models[static_cast<size_t>((first + i) % count)], 64) != expected;
      } catch (const client::Error& error) {
        ++others;
        std::printf("%s\n", error.what());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  check(others == 0, "threads that change devices get the same from each");

  const int64_t before = free_bytes(0);
  client::call(nbl_model_move, models[0].get(), int32_t{1});
  check(describe(models[0])["backend"] == name(1), "moved from one GPU to another");
  check(free_bytes(0) > before, "which gave the first one's memory back");
  check(generate(models[0], 64) == expected, "and it says the same");
  const client::Config config = checkpoint.config("auto");
  client::add(config, NBL_OPT_MAX_MEMORY, "0=64KB");
  const auto next = client::make<client::Model>(nbl_model_load, checkpoint.directory.data(), checkpoint.directory.size(), config.get());
  check(describe(next)["backend"] == name(1), "where a ceiling closes the first device, auto takes the next one");
  check(generate(next, 64) == expected, "and says the same there");
  std::printf("%d devices, %zu threads over all of them: the same ids\n", count, threads.size());
}

// prefill_chunk 0: the device's own.
void estimate_is_true(const Checkpoint& checkpoint, int64_t context, int64_t prefill_chunk = 0) {
  const std::string& directory = checkpoint.directory;
  const client::Config config = checkpoint.config("cuda:0");
  client::set(config, NBL_OPT_CONTEXT, context);
  client::set(config, NBL_OPT_PREFILL_CHUNK, prefill_chunk);
  const Json estimate = Json::parse(client::text_of(nbl_model_estimate, directory.data(), directory.size(), config.get()));
  const auto total = estimate["total_bytes"].get<int64_t>();
  const int64_t before = free_bytes();
  LeastFree least;
  const client::Model model = load(checkpoint, "cuda:0");
  const int64_t peak = before - least.stop(),
                weights = estimate["weight_bytes"].get<int64_t>() + estimate["embedding_bytes"].get<int64_t>();
  const client::Config session_config = client::make_config();
  client::set(session_config, NBL_OPT_CONTEXT, context);
  client::set(session_config, NBL_OPT_PREFILL_CHUNK, prefill_chunk);
  const auto session = client::make<client::Session>(nbl_session_create, model.get(), session_config.get());
  const int64_t taken = before - free_bytes();
  const double error = static_cast<double>(taken) / static_cast<double>(total) - 1;
  const Json description = describe(model);
  check(description["footprint_bytes"] == weights, checkpoint.name() + ": footprint_bytes is what was estimated");
  const int64_t layer = weights / description["shape"]["num_hidden_layers"].get<int64_t>();
  check(peak <= weights + layer + (64 << 20),
        checkpoint.name() + ": " + std::to_string(peak) + " were taken at most while loading " + std::to_string(weights));
  // Of the smallest models the pieces of 2 MB in which memory is handed out are more than 2 %.
  check(std::fabs(error) < 0.02 || std::llabs(taken - total) < (4 << 20),
        checkpoint.name() + ": " + std::to_string(taken) + " taken, " + std::to_string(total) + " estimated");
  const double seconds = description["load_seconds"].get<double>();
  const double file_bytes = Json::parse(client::text_of(nbl_model_inspect, directory.data(), directory.size()))["file_bytes"].get<double>();
  std::printf(
      "%-32s context %lld by %lld: %.3f GB estimated, %.3f taken (%+.2f %%, %+.1f MB); load %.3f s, %.2f GB/s of file, %.2f of weights, peak +%.0f "
      "MB\n",
      checkpoint.name().c_str(), static_cast<long long>(context), static_cast<long long>(prefill_chunk), total * 1e-9, taken * 1e-9, error * 100, (taken - total) * 1e-6, seconds,
      file_bytes * 1e-9 / seconds, weights * 1e-9 / seconds, (peak - weights) * 1e-6);
}

client::Model load_with_kernel(const Checkpoint& checkpoint, const std::string& kernel) {
  const client::Config config = checkpoint.config("cuda:0");
  client::set(config, NBL_OPT_KERNEL, kernel);
  return client::make<client::Model>(nbl_model_load, checkpoint.directory.data(), checkpoint.directory.size(), config.get());
}

// What a session says of its kernels, and the logits behind a long prompt and three single tokens.
struct Answer {
  Json kernels;
  std::vector<float> logits;
};
Answer answer_of(const client::Model& model) {
  const client::Config config = client::make_config();
  client::set(config, NBL_OPT_CONTEXT, int64_t{256});
  const auto session = client::make<client::Session>(nbl_session_create, model.get(), static_cast<const nbl_config*>(config.get()));
  std::vector<nbl_token> prompt;
  for (int i = 0; i < 200; ++i) prompt.push_back(3 + i * 7 % 250);
  client::call(nbl_session_append, session.get(), prompt.data(), prompt.size());
  for (int i = 0; i < 3; ++i) client::call(nbl_session_append, session.get(), prompt.data() + i, size_t{1});
  Answer answer;
  answer.kernels = Json::parse(client::text_of(nbl_session_describe, static_cast<const nbl_session*>(session.get())))["kernels"];
  answer.logits.resize(static_cast<size_t>(
      client::number_of(nbl_model_i64, static_cast<const nbl_model*>(model.get()), static_cast<nbl_prop>(NBL_PROP_VOCABULARY))));
  size_t count = 0;
  client::call(nbl_session_logits, session.get(), answer.logits.data(), answer.logits.size(), &count);
  return answer;
}

double distance(const std::vector<float>& a, const std::vector<float>& b) {
  double difference = 0, size = 0;
  for (size_t i = 0; i < a.size(); ++i) difference += (a[i] - b[i]) * (a[i] - b[i]), size += b[i] * b[i];
  return std::sqrt(difference / size);
}

// Every kernel that is forced runs, says so, and gives the same logits; one that cannot run the model is refused.
void forced_kernels(const Checkpoint& checkpoint) {
  const Answer any = answer_of(load(checkpoint, "cuda:0"));
  const bool has_cublas = Json::parse(client::text_of(nbl_build_info))["cuda"]["cublas"].is_string();
  // Without being asked for, where it is the fastest for prompts of this length.
  const bool usual = any.kernels.back()["kernel"].get<std::string>().find("cublas") != std::string::npos;
  const bool has_resident = any.kernels.front()["kernel"] == "resident";
  for (const std::string kernel : {"launches", "tiles", "cublas", "resident"}) {
    if ((kernel == "cublas" && !has_cublas) || (kernel == "resident" && !has_resident)) {
      refused("the kernel " + kernel, NBL_E_UNSUPPORTED, {kernel, "cuda:0"}, [&] { answer_of(load_with_kernel(checkpoint, kernel)); });
      continue;
    }
    const Answer forced = answer_of(load_with_kernel(checkpoint, kernel));
    const bool resident = forced.kernels.front()["kernel"] == "resident",
               cublas = forced.kernels.back()["kernel"].get<std::string>().find("cublas") != std::string::npos;
    check(resident == (has_resident && (kernel == "resident" || kernel == "cublas")),
          checkpoint.name() + ": one token with the kernel " + kernel + ": " + forced.kernels.dump());
    check(cublas == (kernel == "cublas" || (usual && kernel != "tiles")),
          checkpoint.name() + ": a prompt with the kernel " + kernel + ": " + forced.kernels.dump());
    const double off = distance(forced.logits, any.logits);
    check(off < 2e-2, checkpoint.name() + ": the kernel " + kernel + " is " + std::to_string(off) + " off");
  }
  std::printf("%s: %s\n", checkpoint.name().c_str(), any.kernels.dump().c_str());
}

void refusals(const Checkpoint& checkpoint) {
  const std::string& directory = checkpoint.directory;
  const int32_t count = nbl_device_count();
  refused("a device that does not exist", NBL_E_DEVICE, {"cuda:" + std::to_string(count), "this machine has"},
          [&] { load(checkpoint, "cuda:" + std::to_string(count)); });
  client::Model model = load(checkpoint, "cuda:0");
  const std::vector<nbl_token> expected = generate(model, 64);
  refused("moving to it", NBL_E_DEVICE, {"this machine has"}, [&] { client::call(nbl_model_move, model.get(), int32_t{count}); });
  refused("more sessions than there is memory", NBL_E_NO_DEVICE_MEMORY, {"needs", "are free", "smaller context", "\"needed\"", "\"free\""},
          [&] {
            std::vector<client::Session> sessions;
            for (int i = 0; i < 1000; ++i) {
              const client::Config config = client::make_config();
              client::set(config, NBL_OPT_CONTEXT, int64_t{1} << 24);
              sessions.push_back(client::make<client::Session>(nbl_session_create, model.get(), config.get()));
            }
          });
  refused("float32 keys on a device that has none", NBL_E_UNSUPPORTED, {"F32"}, [&] {
    const client::Config config = client::make_config();
    client::set(config, NBL_OPT_KV_DTYPE, std::string("f32"));
    client::make<client::Session>(nbl_session_create, model.get(), config.get());
  });
  const auto capped_config = [&](const std::string& device) {
    client::Config config = checkpoint.config(device);
    for (int32_t i = 0; i < count; ++i) client::add(config, NBL_OPT_MAX_MEMORY, std::to_string(i) + "=64KB");
    return config;
  };
  const auto capped = [&](const std::string& device) {
    return client::make<client::Model>(nbl_model_load, directory.data(), directory.size(), capped_config(device).get());
  };
  const auto capped_estimate = [&](const std::string& device) {
    return Json::parse(client::text_of(nbl_model_estimate, directory.data(), directory.size(), capped_config(device).get()));
  };
  check(capped_estimate("cuda:0")["loadable"] == false && capped_estimate("cuda:0")["ceiling_bytes"] == 64000, "an estimate tells that");
  check(capped_estimate("auto")["device"] == "cpu" && capped_estimate("auto")["loadable"] == true &&
            capped_estimate("auto")["warnings"].size() == static_cast<size_t>(count),
        "and with auto that the CPU is left");
  refused("a ceiling that is too low", NBL_E_NO_DEVICE_MEMORY, {"max_memory", "\"needed\"", "\"ceiling\""}, [&] { capped("cuda:0"); });
  check(describe(capped("auto"))["backend"] == "cpu", "with auto low ceilings leave the CPU");
  check(describe(load(checkpoint, "auto"))["backend"] == "cuda:0", "auto takes the GPU");
  refused("moving a model that has sessions", NBL_E_BUSY, {"sessions"}, [&] {
    const auto session = client::make<client::Session>(nbl_session_create, model.get(), static_cast<const nbl_config*>(nullptr));
    client::call(nbl_model_move, model.get(), int32_t{NBL_DEVICE_CPU});
  });
  check(generate(model, 64) == expected, "after all refusals the model works");
  check(!generate(load(checkpoint, "cpu"), 64).empty(), "and so does the CPU");
}

void device_figures() {
  const auto get = [](int64_t prop) { return client::number_of(nbl_device_i64, 0, static_cast<nbl_prop>(prop)); };
  const int64_t total = get(NBL_PROP_DEVICE_TOTAL_BYTES), used = get(NBL_PROP_DEVICE_USED_BYTES), free = get(NBL_PROP_DEVICE_FREE_BYTES);
  check(total > 0 && used > 0 && free > 0 && used + free <= total * 1.02 && used + free >= total * 0.95,
        "used and free memory make up the total");
  try {
    const int64_t load = get(NBL_PROP_DEVICE_UTILIZATION);
    check(load >= 0 && load <= 100, "the utilization is a percentage");
    std::printf("%s: %.1f of %.1f GB used, utilization %lld %%\n", client::text_of(nbl_device_name, 0).c_str(), used * 1e-9, total * 1e-9,
                static_cast<long long>(load));
  } catch (const client::Error& error) {
    check(error.status() == NBL_E_UNSUPPORTED, error.what());
    std::printf("%.1f of %.1f GB used; %s\n", used * 1e-9, total * 1e-9, error.what());
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (nbl_device_count() == 0) {
    std::printf("SKIPPED: no usable CUDA device\n");
    return 77;
  }
  try {
    if (argc > 1) generate(load(Checkpoint(argv[1]), "cuda:0"), 64);  // the driver's own memory is taken, every kernel loaded
    device_figures();
    for (int i = 1; i < argc; ++i) {
      const Checkpoint checkpoint(argv[i]);
      const bool small = checkpoint.directory.find("7b") == std::string::npos;
      if (small) {
        move_both_ways(checkpoint);
        forced_kernels(checkpoint);
      }
      estimate_is_true(checkpoint, 512);
      if (!small) estimate_is_true(checkpoint, 4096), estimate_is_true(checkpoint, 4096, 1024);
      if (i == 1) refusals(checkpoint), several_devices(checkpoint);
    }
  } catch (const client::Error& error) {
    check(false, std::string(nbl_status_name(error.status())) + ": " + error.what() + " " + error.detail());
  }
  std::printf("%d checks, %d failures\n", checks, failures);
  return failures > 0 || checks == 0 ? 1 : 0;
}
