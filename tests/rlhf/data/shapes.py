"""One invented row in the shape of each public format, and what it must be read as.

Q is what is asked, GOOD and BAD are two answers to it. rankings: the ranks of (GOOD, BAD) as they stand in the row;
demonstrations: the answer to learn; prompts: whether it asks Q. A use that is not named must be refused.
"""

Q, GOOD, BAD = "Name a yellow fruit.", "A banana.", "Stone."
RANK, LEARN, ASK = "rankings", "demonstrations", "prompts"


def user(text=Q):
    return {"role": "user", "content": text}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


def hh(answer):
    return f"\n\nHuman: {Q}\n\nAssistant: {answer}"


def part(text):
    return [{"type": "text", "text": text, "image": None}]


PAIR = {RANK: (0, 1), ASK: True}
TOLD = {LEARN: GOOD, ASK: True}
SHAPES = {
    "Anthropic HH": ({"chosen": hh(GOOD), "rejected": hh(BAD)}, PAIR),
    "HH red team": ({"transcript": hh(GOOD), "rating": 1.0}, {ASK: True}),
    "rm-static": ({"prompt": hh("").rstrip(), "response": " " + GOOD, "chosen": " " + GOOD, "rejected": " " + BAD}, PAIR | TOLD),
    "trl preferences": ({"prompt": Q, "chosen": GOOD, "rejected": BAD}, PAIR),
    "trl conversational preferences": ({"prompt": [user()], "chosen": [assistant(GOOD)], "rejected": [assistant(BAD)]}, PAIR),
    "implicit prompts (Skywork)": ({"chosen": [user(), assistant(GOOD)], "rejected": [user(), assistant(BAD)]}, PAIR),
    "prompt beside conversations (Tulu)": ({"prompt": Q, "chosen": [user(), assistant(GOOD)], "rejected": [user(), assistant(BAD)]}, PAIR),
    "one message each": ({"prompt": [user()], "chosen": assistant(GOOD), "rejected": assistant(BAD)}, PAIR),
    "UltraFeedback": ({"instruction": Q, "completions": [{"response": GOOD, "overall_score": 9.0}, {"response": BAD, "overall_score": 2.0}]}, PAIR),
    "UltraFeedback binarized": (
        {"prompt": Q, "chosen": [user(), assistant(GOOD)], "rejected": [user(), assistant(BAD)], "messages": [user(), assistant(GOOD)],
         "score_chosen": 9.0, "score_rejected": 2.0}, PAIR | TOLD),
    "Nectar": ({"prompt": hh("").rstrip(), "answers": [{"answer": GOOD, "rank": 1.0}, {"answer": BAD, "rank": 2.0}]}, PAIR),
    "Stack Exchange": ({"question": Q, "answers": [{"text": GOOD, "pm_score": 5}, {"text": BAD, "pm_score": 1}]}, PAIR),
    "SHP": ({"history": Q, "human_ref_A": GOOD, "human_ref_B": BAD, "labels": 1, "score_A": 9, "score_B": 2}, PAIR),
    "HelpSteer2 preferences": ({"prompt": Q, "response_1": GOOD, "response_2": BAD, "preference_strength": -2}, PAIR),
    "HelpSteer3": ({"context": [user()], "response1": GOOD, "response2": BAD, "overall_preference": -1}, PAIR),
    "PKU-SafeRLHF": ({"prompt": Q, "response_0": GOOD, "response_1": BAD, "better_response_id": 0, "safer_response_id": 1}, PAIR),
    "WebGPT": ({"question": {"full_text": Q}, "answer_0": GOOD, "answer_1": BAD, "score_0": 0.5, "score_1": -0.5}, PAIR),
    "Chatbot Arena": ({"winner": "model_a", "conversation_a": [user(), assistant(GOOD)], "conversation_b": [user(), assistant(BAD)], "turn": 1}, PAIR),
    "Arena 140k (parts)": (
        {"winner": "both_bad", "conversation_a": [user(part(Q)), assistant(part(GOOD))], "conversation_b": [user(part(Q)), assistant(part(BAD))]},
        {RANK: (0, 0), ASK: True}),
    "Arena 55k (packed)": (
        {"prompt": f'["{Q}"]', "response_a": f'["{GOOD}"]', "response_b": f'["{BAD}"]', "winner_model_a": 0, "winner_model_b": 1, "winner_tie": 0},
        {RANK: (1, 0), ASK: True}),
    "MT-bench, first of two turns": (
        {"winner": "model_b", "turn": 1, "conversation_a": [user(), assistant(GOOD), user("And?"), assistant("x")],
         "conversation_b": [user(), assistant(BAD), user("And?"), assistant("y")]}, {RANK: (1, 0), ASK: True}),
    "LLMBar": ({"input": Q, "output_1": GOOD, "output_2": BAD, "label": 1}, PAIR),
    "AlpacaFarm": ({"instruction": Q, "input": "", "output_1": GOOD, "output_2": BAD, "preference": 2}, {RANK: (1, 0), ASK: True}),
    "JudgeBench": ({"question": Q, "response_A": GOOD, "response_B": BAD, "label": "A>B"}, PAIR),
    "RewardBench 2": ({"prompt": Q, "chosen": [GOOD], "rejected": [BAD]}, PAIR),
    "Orca DPO": ({"system": "", "question": Q, "chosen": GOOD, "rejected": BAD}, PAIR),
    "OpenAI preferences": ({"input": {"messages": [user()]}, "preferred_output": [assistant(GOOD)], "non_preferred_output": [assistant(BAD)]}, PAIR),
    "ShareGPT preferences": (
        {"conversations": [{"from": "human", "value": Q}], "chosen": {"from": "gpt", "value": GOOD}, "rejected": {"from": "gpt", "value": BAD}},
        PAIR),
    "ms-swift": ({"messages": [user(), assistant(GOOD)], "rejected_response": BAD}, PAIR | TOLD),
    "summarize-from-feedback": (
        {"info": {"post": Q}, "summaries": [{"text": GOOD}, {"text": BAD}], "choice": 1}, {RANK: (1, 0), ASK: f"POST: {Q}\n\nTL;DR:"}),
    "OpenAssistant trees": (
        {"prompt": {"role": "prompter", "text": Q, "replies": [{"role": "assistant", "text": GOOD, "rank": 0, "replies": []},
                                                               {"role": "assistant", "text": BAD, "rank": 1, "replies": []}]}}, PAIR | TOLD),
    "our rankings": ({"prompt": Q, "completions": [GOOD, BAD], "ranks": [0, 1], "labeler": "ann"}, PAIR),
    "messages with replies": ({"messages": [user()], "replies": [{"text": GOOD, "rank": 0}, {"text": BAD, "rank": 1}]}, PAIR),
    "Label Studio": (
        {"data": {"prompt": Q, "answer1": GOOD, "answer2": BAD},
         "annotations": [{"completed_by": 1, "result": [{"type": "pairwise", "to_name": "answer1,answer2", "value": {"selected": "left"}}]}]}, PAIR),
    "Argilla": (
        {"fields": {"prompt": Q, "response1": GOOD, "response2": BAD}, "responses": {"best": [{"value": ["response1", "response2"]}]}}, PAIR),
    "prompt and completion": ({"prompt": Q, "completion": GOOD}, TOLD),
    "Alpaca": ({"instruction": Q, "input": "", "output": GOOD}, TOLD),
    "Dolly": ({"instruction": Q, "context": "", "response": GOOD, "category": "qa"}, TOLD),
    "GSM8K": ({"question": Q, "answer": GOOD}, TOLD),
    "MATH": ({"problem": Q, "solution": GOOD, "level": "Level 1"}, TOLD),
    "MetaMath, ms-swift": ({"query": Q, "response": GOOD}, TOLD),
    "self-instruct": ({"instruction": Q, "instances": [{"input": "", "output": GOOD}]}, TOLD),
    "OpenAI fine-tuning": ({"messages": [user(), assistant(GOOD)]}, TOLD),
    "conversations with a rating": ({"messages": [user(), assistant(GOOD)], "score": 4.5}, TOLD),
    "content parts": ({"messages": [user(part(Q)), assistant(part(GOOD))]}, TOLD),
    "weight 0": ({"messages": [user(), assistant(GOOD), user("Again."), assistant(BAD, weight=0)]}, {LEARN: GOOD, ASK: False}),
    "ShareGPT": ({"conversations": [{"from": "human", "value": Q}, {"from": "gpt", "value": GOOD}]}, TOLD),
    "LIMA": ({"conversations": [Q, GOOD]}, TOLD),
    "Capybara": ({"conversation": [{"input": Q, "output": GOOD}]}, TOLD),
    "WildChat, LMSYS": ({"conversation": [user(), assistant(GOOD)], "turn": 1, "toxic": False}, TOLD),
    "LangSmith": ({"inputs": {"messages": [user()]}, "outputs": {"messages": [assistant(GOOD)]}}, TOLD),
    "guanaco (### Human:)": ({"text": f"### Human: {Q}### Assistant: {GOOD}".replace("### A", "\n### A")}, TOLD),
    "KTO, accepted": ({"prompt": Q, "completion": GOOD, "label": True}, TOLD),
    "KTO, rejected": ({"prompt": Q, "completion": BAD, "label": False}, {ASK: True}),
    "verifiable prompts": ({"prompt": [user()], "reward_model": {"ground_truth": "4"}, "data_source": "x"}, {ASK: True}),
    "RLVR": ({"messages": [user()], "ground_truth": "4"}, {ASK: True}),
    "MT-bench questions": ({"turns": [Q, "And?"], "category": "x"}, {ASK: True}),
}  # fmt: skip

# What must be refused for every use, by the words that say why.
REFUSED = {
    "no prompt (trl's implicit text)": ({"chosen": "The sky is blue.", "rejected": "The sky is green."}, "prompt"),
    "a struct as prompt": ({"prompt": {"text": Q}, "completion": GOOD, "chosen": GOOD, "rejected": BAD}, '"prompt" holds an object'),
    "a number as text": ({"prompt": 3, "completion": GOOD, "chosen": GOOD, "rejected": BAD}, '"prompt" holds a number'),
    "a picture": (
        {"messages": [{"role": "user", "content": [{"type": "image_url"}, *part(Q)]}, assistant(GOOD)]}, "image_url|rankings"),
    "tool calls": ({"messages": [user(), {"role": "assistant", "content": None, "tool_calls": [{}]}, assistant(GOOD)]}, "tool_calls|rankings"),
    "tools beside": ({"prompt": Q, "completion": GOOD, "chosen": GOOD, "rejected": BAD, "tools": [{"name": "x"}]}, '"tools"'),
    "a passage nobody reads": ({"prompt": Q, "completion": GOOD, "chosen": GOOD, "rejected": BAD, "passage": "Fruits are …"}, '"passage"'),
    "another chat format": ({"prompt": f"[INST] {Q} [/INST]", "completion": GOOD, "chosen": GOOD, "rejected": BAD}, "INST"),
    "a prompt that is no part of it": (
        {"prompt": "Else?", "chosen": [user(), assistant(GOOD)], "rejected": [user(), assistant(BAD)], "messages": [user(), assistant(GOOD)]},
        "no part of the conversation"),
}  # fmt: skip
