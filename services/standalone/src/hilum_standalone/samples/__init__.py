"""Sample studies: generated chest radiographs and public real images, all with fictitious or public identities.

    from hilum_standalone.samples import sample_studies
    for study in sample_studies(Path("samples"), run="a", now=datetime.now(UTC)):
        study.files   # ready to be sent

UIDs derive from the `run` and the study's name: the same run gives the same UIDs, another run new studies.
"""

from hilum_standalone.samples.catalogue import SampleStudy, sample_studies
from hilum_standalone.samples.radiograph import Image, Order, radiograph, write

__all__ = ["Image", "Order", "SampleStudy", "radiograph", "sample_studies", "write"]
