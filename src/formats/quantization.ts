// The scheme by which a checkpoint's weights are quantized, as its config.json names it. For people: nothing is unpacked here.
import { isJsonObject, type JsonObject } from "../base/json.ts";
import { shown } from "../base/shown.ts";

/** quant_method of transformers -> what people call it. */
const METHODS: Readonly<Record<string, string>> = {
  bitsandbytes: "bitsandbytes",
  gptq: "GPTQ",
  awq: "AWQ",
  fp8: "block-scaled FP8",
  fbgemm_fp8: "FP8",
  "compressed-tensors": "compressed-tensors",
  mxfp4: "MXFP4",
  aqlm: "AQLM",
  hqq: "HQQ",
  eetq: "EETQ",
  quanto: "quanto",
  torchao: "torchao",
  vptq: "VPTQ",
  exl2: "EXL2",
  exl3: "EXL3",
  modelopt: "ModelOpt",
  bitnet: "BitNet",
  spqr: "SpQR",
  higgs: "HIGGS",
  quark: "Quark",
};

/** "GPTQ, 4 bits", or undefined where the config says nothing of quantization. */
export function namedQuantization(config: JsonObject | undefined): string | undefined {
  // MLX writes its settings as "quantization", everybody else as transformers does.
  const settings = config?.quantization_config ?? config?.quantization;
  if (settings === undefined || settings === null) return undefined;
  if (!isJsonObject(settings)) return `quantization_config is ${shown(settings)}`;
  const method = settings.quant_method ?? settings.quantization_method;
  const name =
    typeof method === "string" && Object.hasOwn(METHODS, method)
      ? METHODS[method]
      : method === undefined
        ? config?.quantization_config === undefined
          ? "MLX"
          : "an unnamed scheme"
        : shown(method);
  const bits = bitsOf(settings);
  return bits === undefined ? name : `${name}, ${bits} bits`;
}

function bitsOf(settings: JsonObject): number | undefined {
  for (const key of ["bits", "w_bit", "num_bits", "nbits"]) {
    const value = settings[key];
    if (typeof value === "number" && Number.isInteger(value) && value > 0 && value <= 16) return value;
  }
  if (settings.load_in_4bit === true || settings._load_in_4bit === true) return 4;
  if (settings.load_in_8bit === true || settings._load_in_8bit === true) return 8;
  return undefined;
}
