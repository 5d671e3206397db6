"""Chat templates of families of models, written after their documentation, and tokenizers of both kinds to render them."""

import json

from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as BackendTokenizer
from transformers import PreTrainedTokenizerFast

TEXT = [
    "The red kite is in the park. Tom says: be kind, answer briefly! System user assistant Blue, then."
] * 8

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA_3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}"
    "<|eot_id|>{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
QWEN_3 = (  # thoughts are dropped from all turns but the last, which gets an empty one
    "{% for m in messages %}{% set text = m.content.split('</think>')[-1].lstrip('\n') if m.role == 'assistant' else m.content %}"
    "<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ text }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
GEMMA = (  # the system text stands before the first question
    "{{ bos_token }}{% if messages[0].role == 'system' %}{% set first = messages[0].content ~ '\n\n' %}"
    "{% set rest = messages[1:] %}{% else %}{% set first = '' %}{% set rest = messages %}{% endif %}"
    "{% for m in rest %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ first if loop.first else '' }}{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
MISTRAL = (  # the system text stands in the last question
    "{% if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set rest = messages[1:] %}"
    "{% else %}{% set rest = messages %}{% endif %}{{ bos_token }}{% for m in rest %}{% if m.role == 'user' %}"
    "{% if loop.last and system is defined %}[INST] {{ system }}\n\n{{ m.content }}[/INST]{% else %}[INST] {{ m.content }}[/INST]"
    "{% endif %}{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
LLAMA_2 = (
    "{% if messages[0].role == 'system' %}{% set system = '<<SYS>>\n' ~ messages[0].content ~ '\n<</SYS>>\n\n' %}"
    "{% set rest = messages[1:] %}{% else %}{% set system = '' %}{% set rest = messages %}{% endif %}{% for m in rest %}"
    "{% if m.role == 'user' %}{{ bos_token }}[INST] {{ system if loop.first else '' }}{{ m.content.strip() }} [/INST]"
    "{% else %} {{ m.content.strip() }} {{ eos_token }}{% endif %}{% endfor %}"
)
ZEPHYR = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
PHI_3 = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
)
ALPACA = (
    "{% if messages[0].role == 'system' %}{{ messages[0].content }}\n\n{% endif %}{% for m in messages %}"
    "{% if m.role == 'user' %}### Instruction:\n{{ m.content }}\n\n{% elif m.role == 'assistant' %}### Response:\n{{ m.content }}\n\n"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}### Response:\n{% endif %}"
)
DEEPSEEK = (  # the answer begins behind a thought that the prompt opens
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}{% elif m.role == 'user' %}<User>{{ m.content }}"
    "{% else %}<Assistant>{{ m.content.split('</think>')[-1] }}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<Assistant><think>\n{% endif %}"
)
VICUNA = (  # a border in the middle of what SentencePiece makes one piece
    "{% if messages[0].role == 'system' %}{{ messages[0].content }} {% endif %}{% for m in messages %}{% if m.role == 'user' %}"
    "USER: {{ m.content }} {% elif m.role == 'assistant' %}ASSISTANT: {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT: {% endif %}"
)
COMMAND_R = (
    "{{ bos_token }}{% for m in messages %}<|START_OF_TURN_TOKEN|><|{{ 'CHATBOT' if m.role == 'assistant' else m.role | upper }}_TOKEN|>"
    "{{ m.content | trim }}<|END_OF_TURN_TOKEN|>{% endfor %}"
    "{% if add_generation_prompt %}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>{% endif %}"
)
LAST_ONLY = (
    "{{ messages[-1].role }}> {{ messages[-1].content }}{% if add_generation_prompt %}\nassistant>{% endif %}"
)
NO_SYSTEM = (
    "{% for m in messages if m.role != 'system' %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
FAMILIES = {
    "ChatML": CHATML, "Llama 3": LLAMA_3, "Qwen 3": QWEN_3, "Gemma": GEMMA, "Mistral": MISTRAL, "Llama 2": LLAMA_2,
    "Zephyr": ZEPHYR, "Phi 3": PHI_3, "Alpaca": ALPACA, "DeepSeek R1": DEEPSEEK, "Vicuna": VICUNA, "Command R": COMMAND_R,
    "the last turn alone": LAST_ONLY, "without system text": NO_SYSTEM,
}  # fmt: skip
SPECIALS = [
    "<s>", "</s>", "<unk>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<start_of_turn>",
    "<end_of_turn>", "[INST]", "[/INST]", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<User>", "<Assistant>",
    "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|USER_TOKEN|>", "<|SYSTEM_TOKEN|>",
]  # fmt: skip


def _without_added_tokens(backend):
    plain = BackendTokenizer(backend.model)
    plain.normalizer, plain.pre_tokenizer, plain.decoder = (
        backend.normalizer,
        backend.pre_tokenizer,
        backend.decoder,
    )
    return plain


def _unigram():
    """As transformers' converter writes those of T5, XGLM and llm-jp: special tokens are pieces, the likeliest ones."""
    words = [f"▁{word}" for word in ["The", "red", "kite", "is", "in", "the", "park.", "Tom", "be", "kind"]]
    letters = [chr(code) for code in range(32, 127)] + ["\n", "▁"]
    pieces = [(token, 0.0) for token in SPECIALS] + [(f"<0x{byte:02X}>", -20.0) for byte in range(256)]
    pieces += [(word, -6.0) for word in words] + [(letter, -5.0) for letter in letters if letter not in words]
    backend = BackendTokenizer(models.Unigram(pieces, unk_id=SPECIALS.index("<unk>"), byte_fallback=True))
    backend.normalizer, backend.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Metaspace()
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    return backend


def tokenizer(kind, template):
    """A small tokenizer with a template: bytes (GPT-2, Llama 3), SentencePiece as Llama 2's file or as Metaspace has it, or Unigram."""
    backend = _unigram() if kind == "Unigram" else _byte_pairs(kind)
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIALS])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>", chat_template=template,
        clean_up_tokenization_spaces=False,
    )  # fmt: skip


def _byte_pairs(kind):
    backend = BackendTokenizer(models.BPE(unk_token="<unk>", byte_fallback=kind != "bytes"))
    alphabet = [chr(code) for code in range(32, 127)]
    if kind == "bytes":
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder, alphabet = decoders.ByteLevel(), pre_tokenizers.ByteLevel.alphabet()
    elif kind == "Llama 2":
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    if kind != "bytes":
        backend.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
        alphabet += ["▁"]
    fallback = [] if kind == "bytes" else [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=len(SPECIALS) + len(fallback) + len(alphabet) + 120, special_tokens=[*SPECIALS[:3], *fallback],
        initial_alphabet=alphabet, show_progress=False,
    )  # fmt: skip
    backend.train_from_iterator(TEXT, trainer)
    trained = json.loads(backend.to_str())[
        "model"
    ]  # anew, since the trainer takes the pieces of single bytes for special
    merges = [tuple(pair) for pair in trained["merges"]]
    backend.model = models.BPE(trained["vocab"], merges, unk_token="<unk>", byte_fallback=kind != "bytes")
    return _without_added_tokens(backend)
