"""What the generated shop sells: kinds, attributes, colours and sizes. No two kinds share a word, on purpose."""

from __future__ import annotations

from typing import NamedTuple


class Department(NamedTuple):
    """A part of the shop: what it sells and what can be said of it."""

    name: str
    aisles: dict[str, tuple[str, ...]]
    """Aisle -> kinds of product."""
    attributes: tuple[str, ...]
    sizes: tuple[str, ...]
    cents: tuple[int, int]
    """Lowest and highest price."""


DEPARTMENTS = (
    Department(
        "Home",
        {
            "Lighting": ("desk lamp", "candle holder", "string light"),
            "Bedding": ("throw pillow", "weighted blanket", "mattress topper"),
            "Decor": ("wall mirror", "area rug", "picture frame"),
        },
        ("easy to clean", "machine washable", "hypoallergenic", "handmade", "fade resistant", "space saving",
         "eco friendly", "non slip", "assembly free", "stain proof"),
        ("small", "medium", "large", "extra large"),
        (900, 14_000),
    ),
    Department(
        "Kitchen",
        {
            "Cooking": ("frying pan", "sauce pot", "baking tray"),
            "Drinks": ("electric kettle", "coffee grinder", "water bottle"),
            "Storage": ("lunch box", "spice rack", "bread bin"),
        },
        ("dishwasher safe", "bpa free", "leak tight", "oven proof", "rust resistant", "heat insulated",
         "stackable", "scratch resistant", "quick drying", "odour free"),
        ("0.5 litre", "1 litre", "2 litre", "4 litre"),
        (700, 9_000),
    ),
    Department(
        "Clothing",
        {
            "Tops": ("hooded sweatshirt", "polo shirt", "knit cardigan"),
            "Bottoms": ("cargo trousers", "denim shorts", "pleated skirt"),
            "Footwear": ("running shoes", "ankle boots", "beach sandals"),
        },
        ("long sleeve", "slim fit", "moisture wicking", "water repellent", "hand wash", "elastic waist",
         "rubber sole", "wrinkle free", "thermal lining", "organic cotton"),
        ("xs", "s", "m", "l", "xl"),
        (1_200, 16_000),
    ),
    Department(
        "Electronics",
        {
            "Audio": ("wireless headphones", "bluetooth speaker", "studio microphone"),
            "Power": ("phone charger", "solar panel", "extension cord"),
            "Computing": ("mechanical keyboard", "laptop stand", "webcam cover"),
        },
        ("noise cancelling", "fast charging", "usb c", "plug and play", "shock absorbing", "energy efficient",
         "voice controlled", "backlit", "foldable", "dust sealed"),
        ("0.5 metre", "1 metre", "2 metre", "3 metre"),
        (800, 24_000),
    ),
    Department(
        "Garden",
        {
            "Tools": ("pruning shears", "hose nozzle", "leaf rake"),
            "Outdoor": ("camping tent", "folding hammock", "bird feeder"),
            "Plants": ("flower planter", "herb kit", "seed mat"),
        },
        ("weather proof", "ergonomic grip", "uv protected", "lightweight", "rot resistant", "self watering",
         "pet safe", "carbon steel", "reusable", "low maintenance"),
        ("compact", "standard", "family", "giant"),
        (600, 18_000),
    ),
    Department(
        "Beauty",
        {
            "Skin": ("face serum", "body lotion", "sun cream"),
            "Hair": ("argan shampoo", "curl brush", "styling wax"),
            "Bath": ("bubble soak", "soap bar", "shower sponge"),
        },
        ("fragrance free", "cruelty free", "sulfate free", "long lasting", "vegan", "dermatologist tested",
         "paraben free", "travel sized", "for sensitive skin", "non greasy"),
        ("30 ml", "50 ml", "100 ml", "250 ml"),
        (400, 6_000),
    ),
    Department(
        "Toys",
        {
            "Play": ("building block", "jigsaw puzzle", "stuffed bear"),
            "Craft": ("paint set", "modelling clay", "sticker album"),
            "Games": ("card deck", "chess board", "dart target"),
        },
        ("battery operated", "washable", "glow in the dark", "for toddlers", "educational", "magnetic",
         "chew proof", "soft edged", "multilingual", "award winning"),
        ("20 pieces", "50 pieces", "120 pieces", "300 pieces"),
        (500, 7_000),
    ),
)  # fmt: skip

COLOURS = ("red", "blue", "green", "black", "white", "yellow", "purple", "orange", "brown", "pink", "silver", "teal")

BRANDS = (
    "Arvell", "Brindle", "Cosmere", "Dunmore", "Elvani", "Fennick", "Galdor", "Hollis", "Ivora", "Jessop", "Kestrel",
    "Lunaro", "Marden", "Norvik", "Oakby", "Pellan", "Quillon", "Rosset", "Sandrel", "Tovari", "Umbra", "Velden",
    "Wexford", "Yarrow", "Zephra",
)  # fmt: skip

FACTS = (
    "Ships in recycled packaging", "Two years of warranty", "Designed by a small team", "Spare parts available",
    "Tested for 10,000 cycles", "A bestseller since 2019", "Packed with printed instructions",
    "Comes with a storage bag",
)  # fmt: skip

INSTRUCTIONS = (
    "I need {kind} that is {attributes}{options}, and price lower than {price} dollars.",
    "I am looking for {kind} which is {attributes}{options}, and price lower than {price} dollars.",
    "Find me {kind}: {attributes}{options}, and price lower than {price} dollars.",
    "I would like to buy {kind}, {attributes}{options}, and price lower than {price} dollars.",
)
