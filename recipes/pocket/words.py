# ruff: noqa: E501, SIM905  (tables)
"""English words to spell: stems and the forms that regular spelling makes of them, more than 3,000, one in ten held out.

Random strings of letters come beside them, so that spelling is learned letter by letter and not word by word.
"""

import random

from recipes.pocket.problem import held_out

VERBS = """
accept add admire admit advise agree allow amuse annoy answer appear argue arrive ask attach attack attend bake balance bathe behave belong
bless boil borrow bounce brush burn bury call camp care carry carve cause change charge chase cheat check cheer chew claim clap clean clear close
coach collect color comb command compare compete complain complete confuse connect consider contain continue copy correct cough count cover crack
crash crawl cross crush cry cure curl cycle damage dance dare decay deceive decide decorate delay delight deliver depend describe deserve destroy
detect develop disagree disappear discover dislike divide double doubt drain dream dress dry dust earn educate employ empty encourage end enjoy
enter entertain escape examine excite excuse exercise exist expand expect explain explode extend face fade fail fasten fear fetch file fill film
fire fix flash float flood flow fold follow fool force form found frame frighten fry gather gaze glow glue greet guard guess guide hammer hand handle
happen harm hate haunt heal heap heat help hook hope hover hunt hurry identify ignore imagine impress improve include increase influence inform
inject injure instruct intend interest interrupt introduce invent invite irritate itch join joke judge jump kick kill kiss kneel knock knot label land
last laugh launch learn level license lick lie lighten like list listen live load lock long look love manage march mark marry match mate matter measure
melt memorize mend mess milk mine miss mix moan moor mourn move muddle murder name need nest note notice number obey object observe obtain offend offer open
order owe own pack paint park pass paste pause peck pedal peel peep perform phone pick pinch place play please point poke polish possess post pour
practice pray preach prefer prepare present preserve press pretend prevent prick print produce promise protect provide pull pump punch puncture punish
push question queue race rain raise reach realize receive recognize record reduce reflect refuse regret reign reject relax release rely remain remember
remind remove repair repeat replace reply report request rescue retire return rhyme rinse risk roast rock roll row ruin rule rush sail satisfy save scare
scatter scold scorch scratch scream screw seal search separate serve settle shade share shave shelter shiver shock shop sigh sign signal ski slip
slow smash smell smile smoke snatch sneeze sniff snore snow soak soothe sound spare spark sparkle spell spill spoil spray sprout squash squeak squeal
squeeze stain stamp stare start stay steer step stitch store strengthen stretch strip stroke stuff succeed suffer suggest suit supply support suppose
surprise surround suspect suspend switch talk tame tap taste tease telephone tempt terrify test thank thaw tick tickle tie time tire touch tour tow
trace trade train transport travel treat tremble trick trouble trust try tumble turn twist type undress unite unlock unpack use vanish visit wail wait walk
wander want warm warn wash waste watch water wave weigh welcome whine whisper whistle wink wipe wish wonder work worry wrap wreck wrestle wriggle yawn yell
""".split()
NOUNS = """
accident account acid acorn actor address adult afternoon airport alarm album alley almond alphabet amount anchor angel angle animal ankle answer ant apple
apron area argument arm army arrow artist atlas atom aunt author autumn avenue award axe baby badge bag bakery balcony ball balloon bamboo banana band bandage
bank barn barrel basket bat bath battery battle beach bead beak bean bear beard beast bed bedroom bee beetle beggar bell belt bench berry bicycle bird birthday
biscuit blade blanket block blood blossom board boat body bone bonnet book border bottle bottom bowl box boy bracelet brain branch bread breakfast breath brick
bridge broccoli brother bubble bucket bug building bulb bunch bundle burger bus bush business butter butterfly button cabbage cabin cable cactus cage cake calendar
camel camera candle candy canvas canyon cap captain car card carpet carrot cart castle cat caterpillar cave ceiling celery cellar cemetery center century chain chair
chalk champion channel chapter cheek cheese cherry chest chicken child chin chocolate church cinema circle circus citizen city class clerk clock cloth cloud clover
clown club coal coast coat cobweb coconut coffee coin collar college comet comma committee company compass computer concert cookie copper corn corner cottage cotton
couch country cousin cow crab cracker cradle crayon cream creature creek cricket crocodile crow crowd crown cucumber cup curtain curve cushion customer daisy danger
daughter deer degree dentist desert desk detail diamond dictionary dinner dinosaur direction discovery dish distance doctor dog doll dolphin donkey door dragon drawer
drawing driver drop drum duck eagle ear earth earthquake edge education effect egg elbow elephant elevator engine engineer envelope error evening event example exercise
eye eyebrow fabric factory fairy family farm farmer father feather fence fiction field finger flag flame flavor flea flesh floor flour flower fly foam fog food foot forest
fork fountain fox freedom friend frog fruit fuel funnel fur furniture galaxy game garage garden garlic gate ghost giant giraffe girl glass glove goat gold goose grape
grapefruit grass gravity group guitar hair hall hammock hamster harbor hat hawk head heart hedge helicopter helmet hen hill hippopotamus history hole holiday home honey
horn horse hospital hotel hour house hurricane ice icicle idea infant insect instrument island jacket jail jam jar jelly jewel journey judge juice jungle kangaroo kettle key
kidney king kingdom kitchen kite kitten knee knife knight ladder lake lamp language lantern laptop lawyer leaf leather leg lemon lemonade leopard letter lettuce library light
lightning lion lip liquid lizard loaf lobster locket lunch machine magazine magic magnet mailbox manager map marble market mask mathematics meadow meal meat medicine melody
memory metal meteor midnight mineral minister minute mirror money monkey monster month moon morning mosquito mother motor mountain mouse mouth muffin museum mushroom music
mustard nail napkin nation nature neck needle neighbor nerve nephew newspaper night noise noodle north nose notebook novel nurse oatmeal ocean octopus office onion orange orchestra
ostrich oven owl oyster package page pail palace pan pancake panda paper parachute parade parcel parent parrot parsnip party passenger patch path peace peach peanut pear pebble pen
pencil penguin pepper person pet piano picnic picture pie pig pigeon pillow pilot pin pineapple pipe pirate pizza planet plant plastic plate playground pleasure plot plough pocket
poem poet poison pond popcorn porch potato powder power president prince princess prison prize property pumpkin puppet puppy purpose puzzle queen question quicksand quill quilt rabbit
radish railway rainbow rat raven ray reason rectangle rhythm ribbon rice riddle river road robin robot rocket roof room root rope rose route sailor salad salmon salt sand sandwich scale
scarecrow scarf scene school science scissors screen sea season seat secret seed servant shadow shampoo shape sheep shelf shell ship shirt shoe shore shoulder sidewalk silk silver
singer sink sister skeleton skin skirt sky slave sleep sleet slope smoke snail snake soap soccer society sock soda sofa soldier son song soup south spade spider spinach sponge spoon
spot spring spy square squirrel stage stairs star station statue steam steel stem stew stick stocking stomach stone story stove stranger straw strawberry stream street string structure
student sugar suit summer sun sunflower surface sweater swing sword table tail tailor teacher team teapot teeth temper temple tendency tent territory theater theory thief thing thread
throat throne thumb thunder ticket tiger title toad toast toe tomato tongue tooth toothbrush top tornado town toy tractor traffic train tray treasure tree triangle trip trombone trousers truck
trumpet trunk tub turkey turtle twig umbrella uncle underwear unicorn uniform universe vacation valley van vase vegetable veil vein vessel vest village violin voice volcano volleyball voyage
waist wall walnut war wave wax weather week whale wheat wheel whip winter wire witch wizard wolf woman wood wool word world worm wound wren wrist writer yard yarn year zebra zipper zoo
""".split()
ADJECTIVES = """
able absurd alive ancient angry anxious awful bad basic beautiful big bitter black blank blind blue bold brave brief bright broad broken brown busy calm careful cheap chief clean clear
clever close cold comfortable common cool correct cruel curious curly damp dangerous dark dead dear deep delicate delicious different difficult dirty dull eager early easy elegant empty equal
evil exact expensive fair false famous fancy fast fat fierce fine firm flat fond free fresh friendly full funny gentle glad golden good grand gray great greedy green gross guilty handsome happy
hard harsh healthy heavy helpful high hollow honest hot huge humble hungry idle ill important innocent jolly keen kind large lazy light likely little local lonely loose loud lovely low loyal lucky mad
mean mild modern modest mysterious narrow nasty neat nervous new nice noble normal odd old ordinary pale perfect plain pleasant polite poor popular pretty private proper proud pure quick quiet rapid
rare raw ready real rich right ripe rough round royal rude sad safe sane scarce secure serious severe shallow sharp short shy sick silent silly simple slender slim small smart smooth soft solid sore sour
special steady steep stiff straight strange strict strong stupid sudden sweet swift tall tender terrible thick thin tight tiny tough true ugly urgent useful usual vague vast violent warm weak wealthy wet
white whole wicked wide wild wise wonderful wooden wrong yellow young
""".split()
# Words that the questions and answers are made of are one token each: how they are spelled has to be learned by heart. So they are
# asked for more often, and never held out. (A test compares them with the vocabulary.)
COMMON = """
add adds answer answers appear appears apples balls baskets block blocks books borrow briefly buttons call candles cards city clock coins
cookies count cups degrees directions divide divided divides drawers eggs equal equally explain explains family fills flowers follows friend
friendly friends head helpful hours key keys language large learned letter letters like likely little lives long marbles matters minutes
months name need number numbers object order owns package packs pears pens person picks please pocket politely properties question remain
right scratch shells sky small spell spelled spelling stamps step stones string table talk teacher tickets time times top toys trained
training turns type used uses want weather weeks welcome word words work yards years
""".split()
_VOWELS = "aeiou"


def _joined(stem: str, ending: str) -> str:
    """A stem with an ending, as regular spelling has it: no double e, y to i."""
    if stem.endswith("e") and ending[0] in _VOWELS:
        return stem[:-1] + ending
    if stem.endswith("y") and stem[-2] not in _VOWELS and ending != "ing":
        return stem[:-1] + ("ies" if ending == "s" else "i" + ending)
    if ending == "s" and stem.endswith(("s", "x", "ch", "sh")):
        return stem + "es"
    return stem + ending


def _all_words() -> tuple[str, ...]:
    found = [_joined(verb, ending) for verb in VERBS for ending in ("s", "ed", "ing")]
    found += [_joined(noun, "s") for noun in NOUNS]
    found += [_joined(adjective, "ly") for adjective in ADJECTIVES]
    found += [_joined(adjective, "ness") for adjective in ADJECTIVES]
    words = dict.fromkeys([*VERBS, *NOUNS, *ADJECTIVES, *found])
    return tuple(word for word in words if 3 <= len(word) <= 12)


WORDS = _all_words()
ALPHABET = "abcdefghijklmnopqrstuvwxyz"


def key(word: str) -> str:
    """What decides whether a word is held out, in every task that has one."""
    return "" if word in COMMON else f"word {word}"


def word(rng: random.Random) -> str:
    """A word, or (two in ten) random letters; some of these from few letters, so that doubles are common."""
    kind = rng.random()
    if kind < 0.8:
        return rng.choice(COMMON) if kind < 0.2 else rng.choice(WORDS)
    letters = "".join(rng.sample(ALPHABET, rng.randint(2, 4))) if rng.random() < 0.3 else ALPHABET
    return "".join(rng.choices(letters, k=rng.randint(3, 10)))


def trained_word(rng: random.Random) -> str:
    """A word that is not held out."""
    while (found := rng.choice(WORDS)) not in COMMON and held_out(key(found), 10):
        pass
    return found
