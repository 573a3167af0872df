"""Exported runs as models of transformers: importing this module registers them with its Auto classes."""

from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from ttt.hf.configuration import TTTSuiteConfig
from ttt.hf.modeling import StreamingState, TTTSuiteForCausalLM
from ttt.hf.tokenizer import TTTSuiteTokenizer

__all__ = ["StreamingState", "TTTSuiteConfig", "TTTSuiteForCausalLM", "TTTSuiteTokenizer"]

AutoConfig.register(TTTSuiteConfig.model_type, TTTSuiteConfig, exist_ok=True)
AutoModelForCausalLM.register(TTTSuiteConfig, TTTSuiteForCausalLM, exist_ok=True)
# For a tokenizer.model; tokenizer_config.json beside a tokenizer.json names a class of transformers.
AutoTokenizer.register(TTTSuiteConfig, slow_tokenizer_class=TTTSuiteTokenizer, exist_ok=True)
