"""Pools of words. Nothing in them is held out but `HELD_NOUNS`: what is unseen is made up."""

from __future__ import annotations

ONSETS = "b c d f g h j k l m n p r s t v w z br cr dr fl gr kl pl pr sh st tr th".split()
VOWELS = "a e i o u a e i o ai ee ou".split()
NAMES = (
    "Anna Ben Carla David Emma Felix Grace Henry Ida Jonas Kate Leo Maria Nina Oscar Paul Rosa Sam Tina "
    "Victor Wendy Alice Bob Clara Daniel Eva Frank Hannah Ivan Julia Karl Laura Max Nora Otto Peter Sarah "
    "Tom Vera Yusuf Zoe Omar Priya Chen Aiko Mateo Lucia Amir Fatima Olga"
).split()
CITIES = (
    "Paris London Rome Berlin Madrid Vienna Oslo Tokyo Lima Cairo Boston Chicago Munich Milan Porto "
    "Sydney Delhi Dublin Prague Athens Geneva Hamburg Toronto Seattle Denver Lyon Naples Kyoto Osaka "
    "Bergen"
).split()
THINGS = (
    "apple bread chair table lamp book pen cup plate spoon knife bag box key door window shirt shoe hat "
    "coat ring rope stone tree leaf flower river hill boat train car bike road bridge house garden wall "
    "roof bell clock drum horn cat dog horse cow sheep goat pig duck hen fish frog bear wolf fox mouse "
    "lion tiger snake bird bee ant milk tea coffee water salt sugar rice egg cheese butter honey lemon "
    "orange banana grape pear plum cherry paper brush glass wheel ladder basket bottle candle carpet "
    "mirror pillow towel button needle thread"
).split()
COLOURS = "red blue green yellow black white brown pink purple orange grey".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
PIECES = (
    "con pre sub re tele inter trans auto micro super dis un per pro for fore back over under out mid counter book "
    "script port form graph scope meter house work ship pass cord line stat play home light cur cast care point stand "
    "ground board hand head foot land water sun moon star day night post mark stamp press block chain bank cash rent "
    "loan tax stor pack mail farm mill plant seed crop soil wind storm snow rain heat cool steam fuel drill pump pipe "
    "tank boil fry bak roast vis aud tact spec rad son vib mov mot fer duc dict vert sist tract vent gress"
).split()
ENDINGS = (
    "ion ment er or ure age al ance ing ist ity ate ite ule ory ive ant ent ial ous ic ics ery ade et el ling ness hood "
    "ship work port ette ium on in us um y"
).split()
ENDS = ["", "", "", "n", "r", "s", "l", "x", "m"]
OPENINGS = ["Please: ", "Hey, ", "Tell me, ", "I wonder, ", "Quick question: ", "So, ", "Hi, ", "OK, "]
HELD_NOUNS = (
    "temperature train forecast appointment document playlist subscription warehouse shipment thermostat curtain "
    "elevator prescription homework museum concert auction passport license voucher satellite telescope"
).split()
"""What functions of no training example are about."""
HELD_NOUNS = (
    "temperature train forecast appointment document playlist subscription warehouse shipment thermostat curtain "
    "elevator prescription homework museum concert auction passport license voucher satellite telescope"
).split()
"""What functions of no training example are about."""
SMALL_WORDS = frozenset(
    "a an the is are was do does did can could would should may i it its to of in on at for with what which how that this "
    "there me tell please have has need want one".split()
)
"""Without which a question still says what it is about."""
