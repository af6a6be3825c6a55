from glob import glob

from setuptools import setup

setup(
    name="egm_ros",
    version="0.1.0",
    packages=["egm_ros"],
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/egm_ros"]),
        ("share/egm_ros", ["package.xml"]),
        ("share/egm_ros/config", glob("config/*")),
        ("share/egm_ros/launch", glob("launch/*.launch.py")),
        ("share/egm_ros/rviz", glob("rviz/*.rviz")),
        ("share/egm_ros/foxglove", glob("foxglove/*.json")),
    ],
    install_requires=["setuptools"],
    extras_require={"test": ["pytest"]},  # makes colcon test run pytest
    zip_safe=True,
    maintainer="egm-edge developers",
    maintainer_email="egm-edge@users.noreply.github.com",
    description="Lifecycle node: camera image and a sentence in, a stamped box out.",
    license="Apache-2.0",
    entry_points={
        "console_scripts": [
            "grounding_node = egm_ros.process:grounding_node",
            "simulated_camera = egm_ros.process:simulated_camera",
            "depth_locator = egm_ros.process:depth_locator",
            "replay_bag = egm_ros.process:replay_bag",
            "foxglove_layout = egm_ros.foxglove_layout:main",
            "record_answers = egm_ros.process:record_answers",
        ]
    },
)
