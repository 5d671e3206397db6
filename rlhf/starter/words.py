"""The vocabulary of the starter world: a few hundred everyday words, grouped by what they name."""

NAMES = [
    "Tom",
    "Anna",
    "Ben",
    "Mia",
    "Sam",
    "Lily",
    "Max",
    "Ella",
    "Jack",
    "Nora",
    "Leo",
    "Ruth",
    "Paul",
    "Emma",
    "Finn",
    "Kate",
    "Hugo",
    "Iris",
    "Alex",
    "Zoe",
]
ANIMALS = [
    "dog",
    "cat",
    "cow",
    "horse",
    "pig",
    "duck",
    "hen",
    "goat",
    "fox",
    "owl",
    "frog",
    "bee",
    "sheep",
    "mouse",
]
FOODS = ["apple", "pear", "plum", "bread", "cake", "soup", "rice", "egg", "cheese", "nut", "lemon", "honey"]
OBJECTS = [
    "kite",
    "ball",
    "cup",
    "book",
    "hat",
    "lamp",
    "drum",
    "bell",
    "key",
    "box",
    "boat",
    "coat",
    "ring",
    "chair",
]
COLORS = ["red", "blue", "green", "yellow", "white", "black", "brown", "pink"]
PLACES = [
    "park",
    "garden",
    "school",
    "market",
    "river",
    "beach",
    "farm",
    "forest",
    "shop",
    "station",
    "house",
    "bridge",
]
NUMBERS = {2: "two", 3: "three", 4: "four"}

CATEGORIES = {
    "animals": ANIMALS,
    "foods": FOODS,
    "colors": COLORS,
    "places": PLACES,
}

ACTIONS = {  # present → past
    "walks": "walked", "runs": "ran", "goes": "went", "rides": "rode", "hurries": "hurried", "drives": "drove",
    "comes": "came", "returns": "returned", "travels": "traveled", "jumps": "jumped",
}  # fmt: skip

OPPOSITES = {
    "hot": "cold", "big": "small", "fast": "slow", "old": "new", "light": "dark", "wet": "dry", "loud": "quiet",
    "full": "empty", "high": "low", "hard": "soft", "open": "closed", "early": "late", "happy": "sad",
}  # fmt: skip

SOUNDS = {
    "dog": "barks", "cat": "meows", "cow": "moos", "pig": "grunts", "duck": "quacks", "horse": "neighs",
    "frog": "croaks", "bee": "buzzes", "owl": "hoots", "sheep": "bleats", "mouse": "squeaks", "hen": "clucks",
}  # fmt: skip

THING_COLORS = {
    "sky": "blue", "grass": "green", "snow": "white", "coal": "black", "sun": "yellow", "blood": "red",
    "milk": "white", "leaf": "green", "earth": "brown", "sea": "blue", "night": "black", "rose": "pink",
}  # fmt: skip

GOOD_EVENTS = (
    "found the {thing}", "won the game", "got a new {thing}", "met a good friend", "ate a big cake",
    "had a warm day at the {place}",
)  # fmt: skip
BAD_EVENTS = (
    "lost the {thing}", "missed the last train", "broke the {thing}", "fell in the mud", "has a bad cold",
    "had a cold day at the {place}",
)  # fmt: skip

RUDE = ("You are a fool.", "That is a silly question.", "Go away now.", "Do not bother me.")
REFUSAL = "I do not know."

ENTITIES = frozenset(NAMES + ANIMALS + FOODS + OBJECTS + COLORS + PLACES)
