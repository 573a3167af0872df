"""Exported runs as models of transformers: importing this module registers them with its Auto classes."""

from transformers import AutoConfig, AutoModelForCausalLM

from ttt.hf.configuration import TTTSuiteConfig
from ttt.hf.modeling import StreamingState, TTTSuiteForCausalLM

__all__ = ["StreamingState", "TTTSuiteConfig", "TTTSuiteForCausalLM"]

AutoConfig.register(TTTSuiteConfig.model_type, TTTSuiteConfig, exist_ok=True)
AutoModelForCausalLM.register(TTTSuiteConfig, TTTSuiteForCausalLM, exist_ok=True)
