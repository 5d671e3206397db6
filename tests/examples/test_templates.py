"""Each template on numbers made up for it: the page shows them and draws its conclusion from them."""

from examples.scaling_law import Law


def test_the_page_of_gpt_and_lstm(page_of):
    def made(bits):
        return {"bits_per_byte": bits, "by_context": [bits + 1, bits, bits - 0.5], "curve": [[1, bits]],
                "cpu_s": 3.0, "tokens": 1000, "weights": 900}  # fmt: skip

    equal = {
        "GPT": [made(2.0), made(2.1)],
        "LSTM": [made(3.0), made(3.1)],
        "LSTM with attention": [made(2.8), made(2.9)],
    }
    found = {
        "text": "a text",
        "context": [1, 2, 4],
        "length": 4,
        "runs": {"equal tokens": equal, "equal time": equal},
    }
    page = page_of("gpt-and-lstm", found, data="three texts", tokens=1000)
    assert "0.800 ahead of the LSTM with attention" in page
    assert "| GPT | 900 | 1,000 | 3 | 2.050 ± 0.635 |" in page and "GPT up to 4 tokens" in page


def test_the_page_of_the_scaling_law(page_of):
    law = Law(1.0, 10.0, 0.5, 20.0, 0.5)
    run = {
        "size": "2 × 16",
        "weights": 10_000,
        "tokens": 40_000,
        "loss": 1.3,
        "bits_per_byte": 1.0,
        "cpu_s": 2.0,
    }
    largest = {**run, "size": "4 × 128", "weights": 90_000, "tokens": 90_000, "loss": 1.11}
    found = {
        "text": "a text", "text_tokens": 1000, "runs": [run, {**run, "tokens": 80_000}, {**run, "loss": 1.5}], "law": vars(law),
        "intervals": {key: [0.9 * value, 1.1 * value] for key, value in vars(law).items()},
        "predicted": [1.1, [1.05, 1.2]], "largest": [largest], "best_size": 12_345.6,
    }  # fmt: skip
    page = page_of("scaling", found)
    assert (
        "predicted 1.100 nats a token for the largest run and it reached 1.110, inside the bootstrap interval"
        in " ".join(page.split())
    )
    assert "12,346 weights" in page and "| 2 × 16 | 10,000 | 40,000 | 1.400 ± 1.271 | 1.200 |" in page


def test_the_page_of_texts(page_of):
    made = {
        "vocabulary": 1024, "weights": 1, "tokens": 5000, "passes": 0.5, "characters_per_token": 2.25, "nats_per_token": 3.0,
        "bits_per_byte": 2.5, "nats_per_character": 1.7, "curve": [[5, 3.0], [10, 2.5]], "samples": ["one", "two", "```three"],
    }  # fmt: skip
    page = page_of(
        "texts", {"moon": {"made of the text": [made, made], "gpt2": [{**made, "bits_per_byte": 2.75}]}}
    )
    assert "moon: made of the text (2.50 bits a byte)" in page and "Best of 2 vocabularies" in page
    assert "| gpt2 | 1,024 | 2.25 | 5,000 | 0.50 | 2.750 (one seed) | 1.700 (one seed) |" in page
    assert "| 0.50 | 2.500 ± 0.000 | 1.700 ± 0.000 |" in page
    assert page.count("```text") == 3 and "```three" not in page


def test_the_page_of_texts_has_nanogpt_s_number_where_it_was_measured(page_of, keep):
    made = {
        "vocabulary": 1024, "weights": 1, "tokens": 5000, "passes": 0.5, "characters_per_token": 2.25, "nats_per_token": 3.0,
        "bits_per_byte": 2.5, "nats_per_character": 1.7, "curve": [[5, 3.0], [10, 2.5]], "samples": ["one"],
    }  # fmt: skip
    assert "nanoGPT's number" not in page_of("texts", {"moon": {"made of the text": [made]}})
    found = {"text": "moon", "weights": 123_456, "nats_per_character": 1.625, "bits_per_byte": 2.344, "passes": 12.5,
             "train_s": 90.0, "curve": [[5, 2.0], [10, 1.625]]}  # fmt: skip
    keep("shakespeare", found, tokens=5000, length=128)
    page = page_of("texts", {"moon": {"made of the text": [made]}})
    assert "| moon | 123,456 | 5,000 | 12.5 | 1.5 | 1.625 | 2.344 |" in page and "rows of 128 tokens" in page


def test_the_page_of_the_small_machine(page_of):
    ways = [
        {"way": "float32", "peak_mib": 800.0, "seconds": 2.0},
        {"way": "less", "peak_mib": 400.0, "seconds": 3.0},
        {"way": "none", "failed": "no such thing"},
    ]
    made = {"kind": "gpt2", "weights": 1000, "checkpoint_mib": 300.0, "training": ways, "answering": ways}
    page = page_of("small-machine", {"a GPT": made, "a Llama": made}, batch=8, length=128, new=16)
    assert "a step of training falls from 800 to 400 MiB by “less” (1.5 times the seconds)" in page
    assert "## A Llama" in page and "small-machine-4.svg" in page
    assert "| none | – | no such thing |" in page
