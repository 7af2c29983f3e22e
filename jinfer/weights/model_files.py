"""Names of the small files of a model's directory that jinfer reads. Patterns are those of `fnmatch`."""

CONFIG_FILES = ("config.json", "generation_config.json")
TOKENIZER_FILE = "tokenizer.json"
TEXT_FILES = (
    TOKENIZER_FILE,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/*.jinja",
)
ADAPTER_CONFIG = "adapter_config.json"
QUANTIZATION_FILES = ("hf_quant_config.json", "quantize_config.json", "quant_config.json")
SIDE_FILES = (ADAPTER_CONFIG, *QUANTIZATION_FILES)
"""Files that say that the weights are not all there is to the model, or not what they seem."""
