"""Traces and whether they may be learned. The row: a picture of 640x480; `box` of the target; `good` is the verdict wanted."""

from typing import NamedTuple


class Trace(NamedTuple):
    good: bool
    expression: str
    text: str
    box: tuple[float, float, float, float] = (400.0, 200.0, 600.0, 440.0)  # right of the middle, low


GOOD = [
    Trace(True, *pair)
    for pair in (
        ("the red mug", "Two mugs stand on the table; the red one beside the jug is the one that is asked for."),
        ("chair by the window", "A chair stands next to the window and there is no other chair in the room."),
        ("the green box", "Among the parcels the green box on the shelf is the only one of that colour."),
        ("woman in the white dress", "The woman in white is highlighted by the light of the window, apart from the guests."),
        ("man in the blue shirt", "Several people stand in line, and only one guy wears a blue shirt, behind the girl."),
        ("second zebra from the left", "Counting the zebras from the left side, the second one has its head lowered to graze."),
        ("the larger dog", "Both dogs are brown, but the larger one is lying in front of the sofa with its paws out."),
        ("cup left of the plate", "The plate lies in the middle and the cup that is meant stands just left of it."),
        ("black suitcase", "There are no other black suitcases; the remaining luggage is red and grey."),
        ("giraffe behind the fence", "One giraffe is outside, the other giraffe stands behind the wooden fence and looks over it."),
        ("kid with the umbrella", "Only one child holds an umbrella, the striped one, and the boy beside it has none."),
        ("the slice closest to the camera", "The slices are arranged in a row and the slice nearest to the viewer is the largest."),
        ("bus on the right", "Two buses are parked; the bus on the right side of the image shows its front."),
        ("bottom bowl", "Three bowls are stacked and the bowl at the bottom of the picture carries the others."),
        ("batter", "The player with the raised bat is the batter, while the catcher crouches behind him."),
        ("pizza with olives", "One pizza has olives on it and the other pizza is covered with ham only."),
        ("the closed laptop", "Of both laptops on the desk one is open; the closed laptop lies under the papers."),
        ("horse with the white blaze", "Both horses face us, and the horse with a white stripe on its nose stands in front."),
        ("the cardboard box", "The cardboard box with the open lid stands beside the crate; the box shows a torn corner."),
        ("tall glass", "There is no doubt which glass is tall: it rises above the two small ones."),
        ("the tv", "A tv hangs on the wall above the shelf, the only screen in this living room."),
        ("cat on the sofa", "One cat sleeps on the sofa while another cat sits on the carpet below."),
        ("lady holding a phone", "The woman who looks down at a phone in her hand is the lady that is meant."),
        ("elephant with tusks", "The smaller elephant has no tusks, so the adult elephant with tusks is the answer."),
        ("2 mugs on the tray", "The tray carries 2 mugs; they belong together and are described as one."),
        ("orange cone", "The cone in front of the truck is orange, and the others behind it are yellow and white."),
        ("rightmost sheep", "The sheep are spread over the meadow and the rightmost sheep stands apart near the trees."),
        ("surfer in the wave", "The surfer crouches inside the wave while two people watch from the beach."),
        ("framed painting", "A painting framed by dark wood hangs over the bed, unlike the unframed prints."),
        ("clock on the tower", "The tower has a clock under its roof; no other dial can be seen on the building."),
        ("teddy bear with a bow", "Three bears sit on the shelf and only the teddy bear with the red bow looks at us."),
        ("white van", "The van is white and parked behind the black taxi, with its doors open."),
        ("person under the tree", "Someone sits under the tree in its shade, away from the people on the path."),
    )
]
BAD = [
    Trace(False, *pair)
    for pair in (
        ("the red mug", "As indicated by the box, the red mug is the one that stands next to the jug."),
        ("the red mug", "The highlighted area contains the red mug, which differs from the blue one."),
        ("the red mug", "The red mug is the object enclosed in green, beside the white plate."),
        ("the red mug", "The mug inside the green lines is red and stands at the edge of the table."),
        ("the red mug", "The green rectangle shows the red mug that is next to the kettle here."),
        ("the red mug", "The bounding box surrounds the red mug which is beside the coffee machine."),
        ("the red mug", "According to the ground truth the red mug is the one near the window."),
        ("the red mug", "The marked object is the red mug because no other mug has that colour."),
        ("the red mug", "The mug that is circled in the picture is red and has a handle."),
        ("the red mug", "The box around the mug tells that the red one is meant, not the blue."),
        ("the red mug", "The caption says which mug it is: the red one beside the kettle."),
        ("the red mug", "The red mug spans from [625, 416, 937, 916] and is next to the jug."),
        ("the red mug", "The red mug reaches from 400 to 600 in width, so it is the larger one."),
        ("the red mug", "Its coordinates show that the red mug is the one beside the kettle."),
        ("the red mug", "The red mug stands on the left side of the image, beside the white jug."),
        ("the red mug", "The red mug can be seen at the top of the picture, above the wooden table."),
        ("cup left of the plate", "The cup that is meant stands to the right of the plate, close to the edge."),
        ("bus on the left", "The bus on the right is the one with its doors open, so it is the answer."),
        ("the red mug", "A large truck is parked beside the road, in front of the old station."),
        ("the red mug", "The blue mug beside the kettle is the one that matches this description."),
        ("woman in the white dress", "The dog that lies on the carpet is brown and has a long tail."),
        ("black suitcase", "The pink suitcase in front of the door is clearly the one meant here."),
        ("the red mug", "La taza roja está al lado de la jarra y es la única de ese color."),
        ("the red mug", "Die rote Tasse steht neben der Kanne und ist die einzige auf dem Tisch."),
        ("the red mug", "红色的杯子 在 水壶 旁边 是 唯一 的 一个 杯子"),
        ("the red mug", "Красная кружка стоит рядом с чайником на деревянном столе."),
        ("the red mug", "The red mug is the red mug. The red mug is the red mug. The red mug is here."),
        ("the red mug", "The mug is red because it is red and it is red and it is red and it is red again."),
        ("the red mug", "The mug beside the kettle is red. It has a handle. The mug beside the kettle is red."),
        ("the red mug", "Sure! The red mug is the one beside the kettle, apart from the blue one."),
        ("the red mug", "Here is the explanation: the red mug stands next to the kettle on the table."),
        ("the red mug", "Okay, let me look. The red mug is the one that stands beside the kettle."),
        ("the red mug", "The user wants the red mug, which stands beside the kettle on the table."),
        ("the red mug", "I'm sorry, but I cannot assist with finding the red mug in this picture."),
        ("the red mug", "There is no red mug in this picture, only a kettle and a plate."),
        ("the red mug", "The red mug cannot be found on this table, it does not appear here."),
        ("the red mug", "Analysis failed: connection reset by peer while asking about the red mug."),
        ("the red mug", "Red mug, kettle."),
        ("the red mug", 'The red mug: ```json [{"bbox_2d": [1, 2, 3, 4]}]``` beside the kettle it is.'),
    )
]
CASES = [*GOOD, *BAD]
