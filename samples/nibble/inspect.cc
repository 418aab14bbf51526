// nibble inspect, describe, estimate, devices: what is in a directory, in a model, in the memory it will take, in the machine.
#include <cstdio>
#include <memory>
#include <optional>

#include <nlohmann/json.hpp>

#include "commands.h"
#include "facts.h"
#include "model_options.h"
#include "terminal.h"

namespace commands {
namespace {

using Json = nlohmann::ordered_json;
using terminal::Style;

std::string shown(const Json& value) { return value.is_string() ? value.get<std::string>() : value.dump(); }

// "name   value" lines; arrays and objects of scalars on one line, nested objects as name.key.
void print_object(const Json& object, const std::string& prefix = "") {
  for (const auto& [key, value] : object.items()) {
    if (value.is_object()) {
      print_object(value, prefix + key + ".");
    } else {
      const bool is_bytes = key.size() > 6 && key.compare(key.size() - 6, 6, "_bytes") == 0 && value.is_number();
      std::printf("%-36s %s\n", (prefix + key).c_str(), is_bytes ? terminal::bytes(value).c_str() : shown(value).c_str());
    }
  }
}

void print(const Json& object, bool json) {
  if (json) {
    std::printf("%s\n", object.dump(2).c_str());
  } else {
    print_object(object);
  }
}

// Which kernels run steps of so many rows, from a session's description; only GPUs choose by rows.
Json step_kernels(nbl_model* model) {
  const client::Config config = client::make_config();
  client::set(config, NBL_OPT_CONTEXT, int64_t{512});
  const auto session = client::make<client::Session>(nbl_session_create, model, static_cast<const nbl_config*>(config.get()));
  return Json::parse(client::text_of(nbl_session_describe, static_cast<const nbl_session*>(session.get()))).value("kernels", Json());
}

void print_step_kernels(const Json& kernels) {
  for (const Json& k : kernels) {
    const auto first = k["first_rows"].get<int64_t>(), last = k["last_rows"].get<int64_t>();
    const std::string rows = first == last ? std::to_string(first) : std::to_string(first) + " to " + std::to_string(last);
    std::printf("%-36s %s (%s)\n", ("steps of " + rows).c_str(), shown(k["kernel"]).c_str(), shown(k["reason"]).c_str());
  }
}

void print_description(const Json& description) {
  Json facts = description;
  facts.erase("modules");
  facts.erase("chat_template");
  facts.erase("step_kernels");
  print_object(facts);
  std::printf("%-36s %s\n", "chat_template", description["chat_template"].is_string() ? "yes" : "no");
  print_step_kernels(description.value("step_kernels", Json::array()));
  std::printf("\n");
  std::printf("%-58s %-15s %-34s %10s\n", "module", "shape", "kernel", "bytes");
  for (const Json& module : description["modules"]) {
    std::string names;
    for (const Json& name : module["names"]) {
      const std::string whole = name.get<std::string>();
      names += names.empty() ? whole : " " + whole.substr(whole.rfind('.') + 1);
    }
    std::string reason = module.value("reason", "");
    if (!reason.empty()) reason.insert(0, "  ");
    const std::string shape = module["shape"][0].dump() + " x " + module["shape"][1].dump();
    std::printf("%-58s %-15s %-34s %10s%s\n", names.c_str(), shape.c_str(), module.value("kernel", "").c_str(),
                terminal::bytes(module.value("bytes", int64_t{0})).c_str(), reason.c_str());
  }
}

Json devices() {
  Json out = Json::array();
  for (int32_t device = 0; device < nbl_device_count(); ++device) {
    const auto get = [device](nbl_prop prop) { return client::number_of(nbl_device_i64, device, prop); };
    Json gpu = {{"device", "cuda:" + std::to_string(device)},
                {"name", client::text_of(nbl_device_name, device)},
                {"compute_capability", std::to_string(get(NBL_PROP_DEVICE_SM_MAJOR)) + "." + std::to_string(get(NBL_PROP_DEVICE_SM_MINOR))},
                {"total_bytes", get(NBL_PROP_DEVICE_TOTAL_BYTES)},
                {"used_bytes", get(NBL_PROP_DEVICE_USED_BYTES)},
                {"free_bytes", get(NBL_PROP_DEVICE_FREE_BYTES)}};
    try {
      gpu["utilization_percent"] = get(NBL_PROP_DEVICE_UTILIZATION);
    } catch (const client::Error& error) {
      gpu["utilization_percent"] = nullptr;  // no NVML
    }
    out.push_back(std::move(gpu));
  }
  return out;
}

struct Flags {
  LoadFlags load;
  bool json = false;
  std::optional<int64_t> context;
};

}  // namespace

void add_inspect(CLI::App& program) {
  auto flags = std::make_shared<Flags>();
  CLI::App* command = program.add_subcommand("inspect", "What a directory holds, without reading weights");
  command->add_option("DIR", flags->load.directory, "Checkpoint directory")->required();
  add_json_flag(command, &flags->json);
  command->callback([flags] {
    const std::string& directory = flags->load.directory;
    print(Json::parse(client::text_of(nbl_model_inspect, directory.data(), directory.size())), flags->json);
  });
}

void add_describe(CLI::App& program) {
  auto flags = std::make_shared<Flags>();
  CLI::App* command = program.add_subcommand("describe", "Load a model and tell format, kernel and bytes of every layer");
  flags->load.add_to(command);
  add_json_flag(command, &flags->json);
  command->callback([flags] {
    const client::Model model = load(flags->load);
    Json description = Json::parse(client::text_of(nbl_model_describe, static_cast<const nbl_model*>(model.get())));
    const Json kernels = step_kernels(model.get());
    if (!kernels.is_null()) description["step_kernels"] = kernels;
    if (flags->json) {
      print(description, true);
    } else {
      print_description(description);
    }
  });
}

void add_estimate(CLI::App& program) {
  auto flags = std::make_shared<Flags>();
  CLI::App* command = program.add_subcommand("estimate", "Memory that a model and a session will take, without reading weights");
  flags->load.add_to(command);
  command->add_option("--context", flags->context, "Tokens of the session; 0: the smaller of 4096 and what the model was trained for");
  add_json_flag(command, &flags->json);
  command->callback([flags] {
    const client::Config config = flags->load.config();
    if (flags->context) client::set(config, NBL_OPT_CONTEXT, *flags->context);
    const std::string& directory = flags->load.directory;
    print(Json::parse(client::text_of(nbl_model_estimate, directory.data(), directory.size(), config.get())), flags->json);
  });
}

void add_devices(CLI::App& program) {
  auto flags = std::make_shared<Flags>();
  CLI::App* command = program.add_subcommand("devices", "Instruction sets and GPUs that this build can use here");
  add_json_flag(command, &flags->json);
  command->callback([flags] {
    const Json gpus = devices();
    Json out = {{"library", Json::parse(client::text_of(nbl_build_info))}};
    if (flags->json) {
      out["gpus"] = gpus;
      print(out, true);
      return;
    }
    print(out, false);
    for (const Json& gpu : gpus) print_object(gpu, gpu["device"].get<std::string>() + ".");
  });
}

}  // namespace commands
