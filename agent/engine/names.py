"""Container names: which are allowed, and one for whoever gives none. Pure."""

import random
import re

from shoal.model.errors import InvalidArgument

_ALLOWED = re.compile(r"/?[a-zA-Z0-9][a-zA-Z0-9_.-]{1,254}")

_ADJECTIVE_WORDS = """
admiring amazing awesome blissful bold brave busy charming clever compassionate cool
dazzling determined dreamy eager ecstatic elastic elated elegant epic exciting fervent
festive flamboyant focused friendly frosty funny gallant gifted goofy gracious great happy
hopeful hungry infallible inspiring intelligent interesting jolly jovial keen kind
laughing loving lucid magical modest musing mystifying naughty nervous nice nifty
nostalgic optimistic peaceful pedantic pensive practical priceless quirky quizzical
relaxed reverent romantic serene sharp silly sleepy stoic strange suspicious sweet tender
thirsty trusting unruffled upbeat vibrant vigilant vigorous wizardly wonderful xenodochial
youthful zealous zen
"""
_ADJECTIVES = _ADJECTIVE_WORDS.split()
_SURNAME_WORDS = """
agnesi albattani allen archimedes ardinghelli aryabhata austin babbage banach banzai
bardeen bartik bassi beaver bell benz bhabha bhaskara blackwell bohr booth borg bose
bouman boyd brattain brown burnell buck cannon carson cartwright cerf chandrasekhar
chaplygin chatelet clarke colden cori cray curie curran darwin davinci dewdney dhawan
diffie dijkstra dirac driscoll dubinsky easley edison einstein elbakyan elion ellis
engelbart euclid euler faraday feistel fermat fermi feynman franklin galileo galois
ganguly gates gauss germain goldberg goldstine goldwasser golick goodall gould greider
grothendieck haibt hamilton haslett hawking heisenberg hellman hermann herschel hertz
heyrovsky hodgkin hofstadter hoover hopper hugle hypatia jackson jang jemison jennings
jepsen johnson joliot jones kalam kapitsa kare keldysh keller kepler khayyam khorana kilby
kirch knuth kowalevski lalande lamarr lamport leakey leavitt lederberg lehmann lewin
lichterman liskov lovelace lumiere mahavira margulis matsumoto maxwell mayer mccarthy
mcclintock mclaren mclean mcnulty meitner mendel mendeleev meninsky merkle mestorf
mirzakhani montalcini moore morse moser murdock napier nash neumann newton nightingale
nobel noether northcutt noyce panini pare pascal pasteur payne perlman pike poincare
poitras proskuriakova ptolemy raman ramanujan rhodes ride riemann ritchie robinson
roentgen rosalind rubin saha sammet sanderson satoshi shamir shannon shaw shirley shockley
shtern sinoussi snyder solomon spence stonebraker sutherland swanson swartz swirles
taussig tesla tharp thompson torvalds tu turing varahamihira vaughan villani visvesvaraya
volhard wescoff wilbur wiles williams williamson wilson wing wozniak wright wu yalow
yonath zhukovsky
"""
_SURNAMES = _SURNAME_WORDS.split()


def check(name: str) -> str:
    """The name without a leading slash, if it is one Docker allows."""
    if not _ALLOWED.fullmatch(name):
        raise InvalidArgument(
            f"Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed",
            field="name",
        )
    return name.removeprefix("/")


def invent(chance: random.Random, attempt: int) -> str:
    """A name such as `happy_turing`; later attempts carry a digit."""
    name = f"{chance.choice(_ADJECTIVES)}_{chance.choice(_SURNAMES)}"
    return name if attempt == 0 else f"{name}{chance.randrange(10)}"
